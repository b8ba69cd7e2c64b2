"""The text of a new Model document for a model file: what the file says filled in, the rest marked."""

from __future__ import annotations

import json
import re

from cluster.signature import Datatype
from deployments.builder.looking.kinds import FileKind
from deployments.builder.looking.seen import Seen, SeenInput

MARK = "FILL IN"
PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "~"}
# How each source calls the field that names its file, where it has others beside.
FILE_FIELDS = {"pytorch": "state_dict", "mlflow": "uri"}


def new_document(name: str, file: str, kind: FileKind, seen: Seen, *, name_unsure: str = "") -> str:
    """A Model document, with comments; `file` is the model's path as seen from the document."""
    lines = [
        f"# Written by `headrace init`. Lines with {MARK} are yours to complete; docs/project-files.md has every field.",
        "kind: Model",
        f"name: {_text(name)}" + _mark(name_unsure),
        "build:",
        *(f"  # {' '.join(note.split())}" for note in seen.notes),
        "  source:",
        *_source(file, kind, seen),
        *_inputs(seen),
        *_outputs(seen),
        *_constants(seen),
        *_evaluate(seen),
        "  # compress: auto              # int8 and fp16 where they pass the gate, and are faster",
        "serving:",
        "  resources: {cpus: 1}          # of each replica",
        "  scaling: {min: 1, max: 4}",
    ]
    return "\n".join(lines) + "\n"


def marks(document: str) -> int:
    """How many places are left to fill in."""
    return sum(MARK in line for line in document.splitlines()[1:])


def _source(file: str, kind: FileKind, seen: Seen) -> list[str]:
    if not seen.settings and kind.source != "mlflow":
        return [f"    {kind.source}: {_text(file)}"]
    lines = [f"    {kind.source}:", f"      {FILE_FIELDS.get(kind.source, 'file')}: {_text(file)}"]
    return lines + [f"      {name}: {_value(value)}" + _mark(seen.unsure.get(name, "")) for name, value in seen.settings.items()]


def _inputs(seen: Seen) -> list[str]:
    if not seen.inputs:
        return ["  # inputs: [...]               # as the file says them, where left out"]
    return ["  inputs:                       # -1 is an axis of any length; the first is the row", *map(_input, seen.inputs)]


def _input(one: SeenInput) -> str:
    spec = one.spec
    return f"    - {{name: {_text(spec.name)}, datatype: {spec.datatype}, shape: {list(spec.shape)}}}" + _mark(one.unsure)


def _outputs(seen: Seen) -> list[str]:
    if not seen.outputs:
        return ["  # outputs: [...]              # as the file says them, all of them, where left out"]
    return [f"  outputs: [{', '.join(map(_text, seen.outputs))}]  # those that callers get, in this order"]


def _constants(seen: Seen) -> list[str]:
    if not seen.constants:
        return []
    return ["  constants:                    # inputs without rows, with their values"] + [
        f"    {_text(name)}: 0" + _mark("its value") for name in seen.constants
    ]


def _evaluate(seen: Seen) -> list[str]:
    if any(one.spec.datatype is Datatype.BYTES for one in seen.inputs):
        return [
            "  evaluate:                     # text can't be drawn at random: some rows as the model gets them",
            "    data: rows.parquet" + _mark("a .parquet or .npz file with a column for each input"),
            "    # label: LABEL              # the column that holds the truth: then accuracy is measured, too",
        ]
    return ["  # evaluate: {data: rows.parquet, label: LABEL}  # real rows to judge it on; without, trial rows are made up"]


def _mark(what: str) -> str:
    return f"  # {MARK}: {what}" if what else ""


def _value(value: object) -> str:
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    """As YAML: bare where that means the same text."""
    if PLAIN.fullmatch(value) and value.lower() not in YAML_WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
