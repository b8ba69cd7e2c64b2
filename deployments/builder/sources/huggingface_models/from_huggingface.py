"""Worker: a text encoder or sequence classifier of transformers, with its tokenizer -> model.onnx and transformers' answers.

The network is exported over tokens; the tokenizer goes into the file's metadata, where the engine finds it. Both are compared
with transformers itself: the tokens must be the same, the answers alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import transformers
from onnx import TensorProto, helper, numpy_helper

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.builder.evaluation.quality import row_differences
from deployments.builder.sources.answers import record
from deployments.builder.sources.binding import BY_NAME, select
from deployments.builder.sources.huggingface_models.folder import TextTask, read_text_model
from deployments.builder.sources.huggingface_models.network import LABEL, LOGITS, Loaded, TextHead, answers, load, tensors, tokens
from deployments.builder.sources.huggingface_models.trial_texts import TEXTS, trial_rows
from deployments.builder.sources.rows import read_inputs, rows_to_check
from deployments.builder.sources.tables.sandbox import enclose
from deployments.builder.sources.torch_export import export
from deployments.builder.spec import HuggingfaceSource, InputSpec
from deployments.builder.steps.renaming import keep_outputs
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array
from deployments.engines.load import open_engine
from deployments.engines.onnx import decode_text
from deployments.engines.tokenizer import METADATA, ModelTokenizer, TokenizerSettings

TEXT = "text"
# Above this an answer counts as another one, relative where answers exceed 1.
SAME = 1e-5


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file (a folder), huggingface (its section), inputs, outputs, evaluate, task, target and expected (files to write)."""
    folder, target = Path(job["file"]), Path(job["target"])
    asked = HuggingfaceSource.model_validate(job["huggingface"])
    about = read_text_model(folder, asked)
    loaded = load(about, asked)
    name = _input_name(read_inputs(job))
    rows = trial_rows(name).inputs
    if job["evaluate"]:
        rows = rows_to_check(job["evaluate"], [InputSpec(name=name, datatype=Datatype.BYTES, shape=(-1,))])
    outputs = list(select(job["outputs"], _own_outputs(loaded), named=True).names)
    settings = _settings(loaded, name)
    longer = _compare_tokens(loaded, settings, _texts(rows, name), str(folder))
    _export(loaded, settings, outputs, target, str(folder))

    def score(batch: Mapping[str, Array]) -> dict[str, Array]:
        found = answers(loaded, _texts(batch, name))
        return {own: found[own] for own in outputs}

    signature = Signature(
        inputs=(TensorSpec(name=name, datatype=Datatype.BYTES, shape=(-1,)),),
        outputs=tuple(_output(own, value) for own, value in score({name: rows[name][:1]}).items()),
    )
    pooling = about.pooling.value + (", normalised" if about.normalised else "")
    return {
        "framework": f"transformers {transformers.__version__}",
        "architecture": about.architecture,
        "parameters": sum(item.numel() for item in loaded.network.parameters()),
        "inputs": BY_NAME,
        "outputs": BY_NAME,
        **({"pooling": pooling} if about.task is TextTask.EMBEDDING else {}),
        "max_length": loaded.max_length,
        "cut": {"rows": len(rows[name]), "longer": longer},
        "differ": _differ(open_engine("onnx", target, signature).score(rows), score(rows)),
        "signature": signature.model_dump(mode="json"),
        **record(score, rows, job),
    }


def _texts(rows: Mapping[str, Array], name: str) -> list[str]:
    """The rows' texts. Raises BadInput where one is not UTF-8."""
    try:
        return list(map(str, decode_text(rows[name]).tolist()))
    except UnicodeDecodeError as error:
        raise BadInput(f"column {name} holds what is not UTF-8", where="evaluate.data", remedy="write text as UTF-8") from error


def _own_outputs(loaded: Loaded) -> list[str]:
    return [*([LABEL] if loaded.head is TextHead.CLASSES else []), *tensors(loaded.head)]


def _settings(loaded: Loaded, name: str) -> TokenizerSettings:
    backend = loaded.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(loaded.max_length, direction=loaded.tokenizer.truncation_side)
    return TokenizerSettings(
        input=name,
        feeds=loaded.feeds,
        pad_id=loaded.tokenizer.pad_token_id,
        pad_type=loaded.tokenizer.pad_token_type_id,
        max_length=loaded.max_length,
        special=not loaded.tokenizer.split_special_tokens,
        tokenizer=backend.to_str(),
    )


def _compare_tokens(loaded: Loaded, settings: TokenizerSettings, texts: list[str], where: str) -> int:
    """How many of the texts are longer than the model reads. Raises BadInput where a text's tokens are not transformers' own."""
    mine = ModelTokenizer(settings, where=where)
    for part in (texts, list(TEXTS)):
        theirs = tokens(loaded, part)
        for places, feed in mine.pieces(np.array(part, dtype=np.object_)):
            for name, value in feed.items():
                length = value.shape[1]
                same = (theirs[name].numpy()[places, :length] == value).all(axis=1)
                if not same.all():
                    raise BadInput(
                        f"text {places[int(np.flatnonzero(~same)[0])]} gets other {name} than by transformers",
                        where=where,
                        remedy="report it, with the model's name",
                    )
    whole = loaded.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    return sum(len(one) > loaded.max_length for one in whole)


def _export(loaded: Loaded, settings: TokenizerSettings, outputs: Sequence[str], file: Path, where: str) -> None:
    """Writes the network over tokens, the label behind it and the tokenizer beside it. Raises BadInput."""
    feed = tokens(loaded, ["two texts that are not", "alike in length"])
    specs = [TensorSpec(name=name, datatype=Datatype.INT64, shape=(-1, -1)) for name in loaded.feeds]
    export(loaded.network, [feed[name] for name in loaded.feeds], specs, tensors(loaded.head), file, where=where)
    model = onnx.load(file)
    if loaded.head is TextHead.CLASSES:
        _name_classes(model, loaded.classes)
    keep_outputs(model, list(outputs))
    helper.set_model_props(model, {METADATA: settings.model_dump_json()})
    onnx.save(model, file)


def _name_classes(model: onnx.ModelProto, classes: Sequence[str]) -> None:
    """The class with the highest logit, by its name, as a further output; in place."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(classes, dtype=object), "label.classes"))
    model.graph.node.extend(
        [
            helper.make_node("ArgMax", [LOGITS], ["label.place"], axis=1, keepdims=0),
            helper.make_node("Gather", ["label.classes", "label.place"], [LABEL]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info(LABEL, TensorProto.STRING, ["batch"]))


def _differ(mine: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, int]:
    """How many of the rows get another answer than transformers gives."""
    scale = {name: max(1.0, float(np.abs(v).max(initial=0))) if v.dtype.kind == "f" else 1.0 for name, v in theirs.items()}
    apart = [row_differences(mine[name], value) / scale[name] for name, value in theirs.items()]
    return {"rows": len(apart[0]), "other": int((np.max(apart, axis=0) > SAME).sum())}


def _output(name: str, value: Array) -> TensorSpec:
    datatype = Datatype.BYTES if value.dtype == np.object_ else Datatype.FP32
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *value.shape[1:]))


def _input_name(listed: Sequence[InputSpec]) -> str:
    """The document's name for the text. Raises BadInput where it lists something else."""
    if len(listed) > 1 or any(spec.datatype is not Datatype.BYTES or spec.shape != (-1,) for spec in listed):
        raise BadInput(
            "the model reads one text a row", where="inputs", remedy="list one input with datatype BYTES and shape [-1], or none"
        )
    return listed[0].name if listed else TEXT


if __name__ == "__main__":
    enclose()
    serve(step)
