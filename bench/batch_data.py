"""What the batch bench scores: datasets and small networks, made on the spot."""

from __future__ import annotations

import itertools
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
from consumers.batch.ledger import Pinned
from consumers.batch.spec import BatchSpec
from deployments.artifact import Samples, write_artifact


@dataclass(frozen=True, slots=True)
class Case:
    """One dataset shape. `width` values a row: a column each, or one list column where `as_list`."""

    name: str
    files: int
    rows_a_file: int
    width: int
    layers: tuple[int, ...]
    as_list: bool = False

    @property
    def rows(self) -> int:
        return self.files * self.rows_a_file

    @property
    def columns(self) -> list[str]:
        return ["x"] if self.as_list else [f"f{at}" for at in range(self.width)]


def write_dataset(case: Case, folder: Path) -> None:
    """Random float32 values; every file differs in its first value only, so that making them is quick."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    values = random.normal(size=(case.rows_a_file, case.width)).astype(np.float32)
    columns = [np.ascontiguousarray(values[:, at]) for at in range(case.width)]
    for at in range(case.files):
        if case.as_list:
            table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), case.width)})
        else:
            columns[0][0] = at
            table = pa.table(dict(zip(case.columns, columns, strict=True)))
        pq.write_table(table, folder / f"{at:05d}.parquet", row_group_size=131_072)


def write_model(case: Case, folder: Path) -> Pinned:
    """A network of `case.layers` with softmax: input x [n, width], output p [n, classes]."""
    sizes = (case.width, *case.layers)
    random = np.random.default_rng(1)
    nodes, constants, source = [], [], "x"
    for at, (before, after) in enumerate(itertools.pairwise(sizes)):
        last = at == len(sizes) - 2
        constants.append(numpy_helper.from_array(random.normal(0, 0.1, (before, after)).astype(np.float32), f"w{at}"))
        constants.append(numpy_helper.from_array(np.zeros(after, np.float32), f"b{at}"))
        nodes.append(helper.make_node("Gemm", [source, f"w{at}", f"b{at}"], [f"h{at}"]))
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"h{at}"], ["p" if last else f"a{at}"]))
        source = f"a{at}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", case.width])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["batch", sizes[-1]])],
        constants,
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    onnx.checker.check_model(onnx.load_from_string(content))
    sample = random.normal(size=(4, case.width)).astype(np.float32)
    (answer,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(["p"], {"x": sample})
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, case.width)),),
        outputs=(TensorSpec(name="p", datatype=Datatype.FP32, shape=(-1, sizes[-1])),),
    )
    artifact = write_artifact(
        folder / "artifacts",
        model="bench",
        engine="onnx",
        signature=signature,
        files={"model.onnx": folder / "model.onnx"},
        samples=Samples(inputs={"x": sample}, outputs={"p": answer}),
        report={},
        source={"kind": "bench"},
    )
    return Pinned(model="bench", version=1, artifact_uri=artifact.uri, digest=artifact.digest, signature=signature)


def spec_of(case: Case, source: Path, output: Path, workers: int) -> BatchSpec:
    """Writes the answers and their argmax."""
    document: dict[str, Any] = {
        "model": "bench",
        "input": {"path": str(source), "columns": {} if case.as_list else {"x": case.columns}},
        "output": {"path": str(output), "columns": {"p": "p", "label": "argmax(p)"}, "keep": 0},
        "workers": {"min": workers, "max": workers},
    }
    return BatchSpec.model_validate(document)
