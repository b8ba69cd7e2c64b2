"""What the batch bench scores: datasets and small networks, made on the spot."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.spec import BatchSpec
from consumers.batch.write.records import Pinned
from deployments.artifacts.package import write_artifact
from deployments.artifacts.samples import Samples
from deployments.profiles.making import make_profile

TEXTS, WORDS, EMBEDDING = 4, 1000, 8


@dataclass(frozen=True, slots=True)
class Case:
    """One dataset shape. `width` values a row: a column each, or one list column where `as_list`.

    Where `texts`, the first TEXTS columns are strings and the others are int64. Each file is there `links` times,
    so that growth costs no disk.
    """

    name: str
    files: int
    rows_a_file: int
    width: int
    layers: tuple[int, ...]
    as_list: bool = False
    texts: bool = False
    links: int = 1

    @property
    def rows(self) -> int:
        return self.files * self.links * self.rows_a_file

    @property
    def columns(self) -> list[str]:
        return ["x"] if self.as_list else [f"f{at}" for at in range(self.width)]


def write_dataset(case: Case, folder: Path) -> None:
    """Random float32 values; every file differs in its first value only, so that making them is quick."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    if case.texts:
        _write_texts(case, folder, random)
        return
    values = random.normal(size=(case.rows_a_file, case.width)).astype(np.float32)
    columns = [np.ascontiguousarray(values[:, at]) for at in range(case.width)]
    for at in range(case.files):
        if case.as_list:
            table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), case.width)})
        else:
            columns[0][0] = at
            table = pa.table(dict(zip(case.columns, columns, strict=True)))
        pq.write_table(table, folder / f"{at:05d}.parquet", row_group_size=131_072)
        for again in range(1, case.links):
            os.link(folder / f"{at:05d}.parquet", folder / f"{again:02d}-{at:05d}.parquet")


def _write_texts(case: Case, folder: Path, random: np.random.Generator) -> None:
    words = np.array([f"word {at}" for at in range(WORDS)])
    columns: dict[str, Any] = {name: words[random.integers(0, WORDS, case.rows_a_file)] for name in case.columns[:TEXTS]}
    columns |= {name: random.integers(0, 100, case.rows_a_file) for name in case.columns[TEXTS:]}
    for at in range(case.files):
        pq.write_table(pa.table(columns), folder / f"{at:05d}.parquet", row_group_size=131_072)


def write_model(case: Case, folder: Path, *, profiled: int = 0) -> Pinned:
    """A network of `case.layers` with softmax: input x [n, width] (or s and k, see `_embedding`), output p [n, classes].

    It has a profile of so many rows; 0: none.
    """
    random = np.random.default_rng(1)
    nodes: list[Any] = []
    constants: list[Any] = []
    if case.texts:
        inputs = (
            TensorSpec(name="s", datatype=Datatype.BYTES, shape=(-1, TEXTS)),
            TensorSpec(name="k", datatype=Datatype.INT64, shape=(-1, case.width - TEXTS)),
        )
        width = _embedding(case, random, nodes, constants)
    else:
        inputs = (TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, case.width)),)
        width = case.width
    sizes, source = (width, *case.layers), "x"
    for at, (before, after) in enumerate(itertools.pairwise(sizes)):
        last = at == len(sizes) - 2
        constants.append(numpy_helper.from_array(random.normal(0, 0.1, (before, after)).astype(np.float32), f"w{at}"))
        constants.append(numpy_helper.from_array(np.zeros(after, np.float32), f"b{at}"))
        nodes.append(helper.make_node("Gemm", [source, f"w{at}", f"b{at}"], [f"h{at}"]))
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"h{at}"], ["p" if last else f"a{at}"]))
        source = f"a{at}"
    kinds = {Datatype.FP32: TensorProto.FLOAT, Datatype.BYTES: TensorProto.STRING, Datatype.INT64: TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info(spec.name, kinds[spec.datatype], ["batch", spec.shape[1]]) for spec in inputs],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["batch", sizes[-1]])],
        constants,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    onnx.checker.check_model(onnx.load_from_string(content))
    sample: dict[str, Any] = {
        "s": np.full((4, TEXTS), b"word 7", np.object_),
        "k": np.ones((4, case.width - TEXTS), np.int64),
        "x": random.normal(size=(4, case.width)).astype(np.float32),
    }
    sample = {spec.name: sample[spec.name] for spec in inputs}
    feed = sample | ({"s": np.full((4, TEXTS), "word 7", np.object_)} if case.texts else {})
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (answer,) = session.run(["p"], feed)
    signature = Signature(inputs=inputs, outputs=(TensorSpec(name="p", datatype=Datatype.FP32, shape=(-1, sizes[-1])),))
    profile = None
    if profiled:
        many = {"x": random.normal(size=(profiled, case.width)).astype(np.float32)}
        profile = make_profile(signature, many, {"p": session.run(["p"], many)[0]})
    artifact = write_artifact(
        folder / "artifacts",
        model="bench",
        engine="onnx",
        signature=signature,
        files={"model.onnx": folder / "model.onnx"},
        samples=Samples(inputs=sample, outputs={"p": answer}),
        report={},
        profile=profile,
        source={"kind": "bench"},
    )
    return Pinned(model="bench", version=1, artifact_uri=artifact.uri, digest=artifact.digest, signature=signature)


def _embedding(case: Case, random: np.random.Generator, nodes: list[Any], constants: list[Any]) -> int:
    """Strings s are looked up and embedded, integers k taken as they are; both make x, whose width is returned."""
    width = TEXTS * EMBEDDING
    constants += [
        numpy_helper.from_array(random.normal(0, 0.1, (WORDS + 1, EMBEDDING)).astype(np.float32), "table"),
        numpy_helper.from_array(np.array([-1, width]), "flat"),
    ]
    nodes += [
        helper.make_node(
            "LabelEncoder",
            ["s"],
            ["ids"],
            domain="ai.onnx.ml",
            keys_strings=[f"word {at}" for at in range(WORDS)],
            values_int64s=list(range(WORDS)),
            default_int64=WORDS,
        ),
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "flat"], ["texts"]),
        helper.make_node("Cast", ["k"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["texts", "numbers"], ["x"], axis=1),
    ]
    return width + case.width - TEXTS


def spec_of(case: Case, source: Path, output: Path, workers: int, **more: Any) -> BatchSpec:
    """Writes the answers and their argmax."""
    columns: dict[str, list[str]] = {} if case.as_list else {"x": case.columns}
    if case.texts:
        columns = {"s": case.columns[:TEXTS], "k": case.columns[TEXTS:]}
    document: dict[str, Any] = {
        "model": "bench",
        "input": {"path": str(source), "columns": columns},
        "output": {"path": str(output), "columns": {"p": "p", "label": "argmax(p)"}, "keep": 0},
        "workers": {"min": workers, "max": workers},
    }
    return BatchSpec.model_validate(document | more)
