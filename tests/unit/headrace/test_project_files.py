"""Project files: what is wrong with one is said with file, line, field and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from cluster.errors import BadInput, HeadraceError, NotFound
from consumers.stream.spec import StreamSpec
from headrace.project.documents import load_project
from headrace.project.paths import PATH_FIELDS
from headrace.project.yaml_source import MAX_FILE_BYTES

MODEL = """\
kind: Model
name: digits
serving:
  scaling: {min: 1, max: 3}
rollout:
  steps:
    - {weight: 10, bake_s: 1}
    - {weight: 100}
"""
STREAM = """\
kind: Stream
name: digits
model: digits
input: {topic: digits-in}
output: {topic: digits-out}
dead_letters: {topic: digits-dead}
"""
BATCH = """\
kind: Batch
name: nightly
model: digits
input: {path: data/rows.parquet}
output: {path: scored}
"""


def write(folder: Path, text: str, name: str = "project.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(HeadraceError) as caught:
        load_project([path])
    return str(caught.value)


def test_all_kinds_in_one_file_become_one_request(tmp_path: Path) -> None:
    request = load_project([write(tmp_path, "---\n".join([MODEL, STREAM, BATCH]))]).apply()
    assert [model.name for model in request.models] == ["digits"]
    assert request.models[0].serving.scaling.max == 3
    assert [(feed.kind, feed.name, feed.model) for feed in request.feeds] == [
        ("stream", "digits", "digits"),
        ("batch", "nightly", "digits"),
    ]
    assert request.feeds[0].spec["input"]["topic"] == "digits-in"


def test_relative_paths_are_meant_from_the_files_folder(tmp_path: Path) -> None:
    spec = load_project([write(tmp_path, BATCH)]).apply().feeds[0].spec
    assert spec["input"]["path"] == str(tmp_path / "data/rows.parquet")
    assert spec["output"]["path"] == str(tmp_path / "scored")


@pytest.mark.parametrize(
    ("named", "meant"),
    [("file:keys/a.pub", "file:{}/keys/a.pub"), ("file:/a.pub", "file:/a.pub"), ("prod", "prod"), ("vault:a/b", "vault:a/b")],
)
def test_the_file_of_a_key_is_meant_from_the_files_folder(tmp_path: Path, named: str, meant: str) -> None:
    model = f"kind: Model\nname: digits\npayloads: {{parquet: {{path: kept, encrypt: '{named}'}}}}\n"
    batch = BATCH.replace("scored", f"scored, encrypt: '{named}'")
    stream = STREAM.replace("digits-out", f"digits-out, encrypt: {{fields: [y], key: '{named}'}}")
    request = load_project([write(tmp_path, "---\n".join([model, batch, stream]))]).apply()
    kept = request.models[0].payloads
    assert kept is not None
    assert kept.parquet is not None
    keys = [kept.parquet.encrypt, *(feed.spec["output"]["encrypt"] for feed in request.feeds)]
    assert [key if isinstance(key, str) else key["key"] for key in keys] == [meant.format(tmp_path)] * 3


@pytest.mark.parametrize("section", ["security", "registry"])
def test_every_file_that_a_stream_names_is_meant_from_the_files_folder(tmp_path: Path, section: str) -> None:
    shape = StreamSpec.model_fields[section].annotation
    (model,) = [one for one in (shape, *get_args(shape)) if isinstance(one, type) and issubclass(one, BaseModel)]
    fields = [name for name in model.model_fields if name.endswith("_file")]
    assert len(fields) > 1
    assert {path[1] for path in PATH_FIELDS["Stream"] if path[0] == section} == set(fields)


def test_uris_and_absolute_paths_stay(tmp_path: Path) -> None:
    text = BATCH.replace("data/rows.parquet", "s3://bucket/rows").replace("scored", "/var/scored")
    spec = load_project([write(tmp_path, text)]).apply().feeds[0].spec
    assert (spec["input"]["path"], spec["output"]["path"]) == ("s3://bucket/rows", "/var/scored")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    write(tmp_path, STREAM, "b.yml")
    write(tmp_path, MODEL, "a.yaml")
    write(tmp_path, "not: [a, project", "notes.txt")
    project = load_project([tmp_path])
    assert (len(project.models), len(project.feeds)) == (1, 1)


def test_an_alias_is_followed(tmp_path: Path) -> None:
    text = MODEL.replace("scaling: {min: 1, max: 3}", "scaling: &s {min: 1, max: 3}") + "---\n" + MODEL.replace("digits", "two")
    assert len(load_project([write(tmp_path, text)]).models) == 2


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (MODEL.replace("scaling:", "scalling:"), "project.yaml:4: serving.scalling", "did you mean 'scaling'?"),
        (MODEL.replace("bake_s", "bake"), "project.yaml:7: rollout.steps[0].bake", "did you mean 'bake_s'?"),
        (MODEL.replace("weight: 100", "weight: 5"), "project.yaml:5: rollout", "weights must rise"),
        (MODEL.replace("weight: 100", "weight: 50"), "project.yaml:5: rollout", "last step must have weight 100"),
        (MODEL.replace("max: 3", "max: many"), "project.yaml:4: serving.scaling.max", "got 'many'"),
        (MODEL.replace("max: 3", "max: .nan"), "project.yaml:4: serving.scaling.max", "not a finite number"),
        (MODEL.replace("max: 3", "max: 0"), "project.yaml:4: serving.scaling", "greater than or equal to 1"),
        (MODEL.replace("name: digits", "name: Digits!"), "project.yaml:2: name", "letters, digits, underscores, dots"),
        (MODEL.replace("name: digits\n", ""), "project.yaml:1: name", "missing"),
        (MODEL.replace("kind: Model", "kind: Modle"), "project.yaml:1: kind", "did you mean 'Model'?"),
        (MODEL.replace("kind: Model\n", ""), "project.yaml:1: kind", "add one of: Model, Stream, Batch"),
        (MODEL + "name: again\n", "project.yaml:9: name", "written twice; first on line 2"),
        (MODEL + "---\n" + MODEL, "project.yaml:11: name", "is written twice"),
        (MODEL + "build: {source: {}}\n", "project.yaml:9: build.source", "name exactly one of"),
        (STREAM.replace("topic: digits-in", "topik: digits-in"), "project.yaml:4: input.topik", "did you mean 'topic'?"),
        (STREAM.replace("digits-in", "digits in!"), "project.yaml:4: input.topic", "pattern"),
        (STREAM.replace("digits-out", "digits-in"), "project.yaml:1", "three topics"),
        (STREAM.replace("model: digits\n", ""), "project.yaml:1: model", "missing"),
        (STREAM + "scaling: {calm_s: .inf}\n", "project.yaml:7: scaling.calm_s", "not a finite number"),
        (STREAM + "resources: {cpus: .nan}\n", "project.yaml:7: resources.cpus", "not a finite number"),
        (STREAM + "linger_ms: .nan\n", "project.yaml:7: linger_ms", "not a finite number"),
        (BATCH.replace("path: scored", "path: scored, mode: overwrite"), "project.yaml:5: output.mode", "'replace' or 'append'"),
        (
            MODEL.replace("scaling: {min: 1, max: 3}", "{transport: embedded, resources: {gpus: 0.25}}"),
            "project.yaml:3: serving",
            "take `transport: remote`",
        ),
        (MODEL.replace("scaling: {min: 1, max: 3}", "resources: {gpus: 1.5}"), "project.yaml:3: serving", "or whole ones"),
        (STREAM + "resources: {gpus: 1}\n", "project.yaml:7: resources.gpus", "give GPUs to the model"),
        (BATCH + "scoring: remote\nworkers: {resources: {gpus: 1}}\n", "project.yaml:7: workers.resources.gpus", "stand idle"),
        (BATCH + 'schedule: {cron: "0 30 2 * * *"}\n', "project.yaml:6: schedule.cron", "without seconds (leave out"),
        (BATCH + "evry: night\n", "project.yaml:6: evry", "unknown field"),
        ("a: [1, 2\n", "project.yaml:2", "not valid YAML"),
        ("a:\n\t- 1\n", "project.yaml:2", "not valid YAML"),
        ("- kind: Model\n", "project.yaml:1", "a document is a mapping"),
        ("? [a, b]\n: 1\n", "project.yaml:1", "a field's name is plain text"),
        ("kind: !!python/object/apply:os.system [ls]\n", "project.yaml:1: kind", "unknown kind"),
        ("kind: !!binary x\n", "project.yaml:1: kind", "can't be read as a value"),
        ("kind: &a [*a]\n", "project.yaml:1", "nested deeper"),
        ("\n---\n", "project.yaml", "no document found"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    told = refused(write(tmp_path, text))
    assert told.startswith(str(tmp_path / place))
    assert words in told


def test_gpus_that_are_used_may_be_asked_for(tmp_path: Path) -> None:
    model = MODEL.replace("scaling: {min: 1, max: 3}", "resources: {gpus: 0.25}")
    batch = BATCH + "workers: {resources: {gpus: 1}}\n"
    request = load_project([write(tmp_path, "---\n".join([model, batch]))]).apply()
    assert request.models[0].serving.resources.gpus == 0.25
    assert request.feeds[0].spec["workers"]["resources"]["gpus"] == 1


def test_all_findings_of_a_document_are_told_at_once(tmp_path: Path) -> None:
    told = refused(write(tmp_path, MODEL.replace("max: 3", "maks: 3").replace("bake_s", "bake")))
    assert "serving.scaling.maks" in told
    assert "rollout.steps[0].bake" in told


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "once aliases are followed" in refused(write(tmp_path, "\n".join(lines)))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert "nested deeper" in refused(write(tmp_path, "kind: " + "[" * 20_000))


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    assert "KiB" in refused(write(tmp_path, "#" * (MAX_FILE_BYTES + 1)))


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "project.yaml"
    path.write_bytes(b"kind: Model\nname: \xff\n")
    with pytest.raises(BadInput, match=r"project\.yaml:2: not UTF-8"):
        load_project([path])


@pytest.mark.parametrize("name", ["absent.yaml", "empty-folder"])
def test_missing_files_are_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    with pytest.raises(NotFound):
        load_project([tmp_path / name])
