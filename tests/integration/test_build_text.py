"""Text in and text out, from each kind of file that rows come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from cluster.errors import BadInput
from deployments.builder.report import IMPORTED
from tests.support.builds import answer, refused, run

pytestmark = pytest.mark.usefixtures("builds_here")
WORDS = ["red", "green", "blau\u00e9", "", "green", "red"]
KINDS = ["warm", "cold", "cold", "none", "cold", "warm"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Colours and amounts to kinds: `kind` is text, `score` depends on both."""
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["colour"],
            ["kind"],
            domain="ai.onnx.ml",
            keys_strings=["red", "green", "blau\u00e9"],
            values_strings=["warm", "cold", "cold"],
            default_string="none",
        ),
        helper.make_node(
            "LabelEncoder",
            ["colour"],
            ["weight"],
            domain="ai.onnx.ml",
            keys_strings=["red", "green"],
            values_floats=[2.0, 3.0],
            default_float=0.5,
        ),
        helper.make_node("Mul", ["weight", "amount"], ["score"]),
    ]
    string, number = TensorProto.STRING, TensorProto.FLOAT
    tensors = {
        name: helper.make_tensor_value_info(name, datatype, ["n", 1])
        for name, datatype in (("colour", string), ("amount", number), ("kind", string), ("score", number))
    }
    graph = helper.make_graph(nodes, "text", [tensors["colour"], tensors["amount"]], [tensors["kind"], tensors["score"]])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    return tmp_path


def npz(folder: Path, colours: np.ndarray) -> str:
    np.savez(folder / "rows.npz", colour=colours, amount=np.ones(6), label=np.array(KINDS))
    return "rows.npz"


def parquet(folder: Path, colours: pa.Array) -> str:
    pq.write_table(pa.table({"colour": colours, "amount": np.ones(6), "label": KINDS}), folder / "rows.parquet")
    return "rows.parquet"


FILES: dict[str, Callable[[Path], str]] = {
    "U": lambda folder: npz(folder, np.array(WORDS)),
    "S": lambda folder: npz(folder, np.array([word.encode() for word in WORDS])),
    "string": lambda folder: parquet(folder, pa.array(WORDS)),
    "large_string": lambda folder: parquet(folder, pa.array(WORDS, pa.large_string())),
    "dictionary": lambda folder: parquet(folder, pa.array(WORDS).dictionary_encode()),
    "binary": lambda folder: parquet(folder, pa.array([word.encode() for word in WORDS], pa.binary())),
    "lists": lambda folder: parquet(folder, pa.array([[word] for word in WORDS])),
}


@pytest.mark.parametrize("kind", FILES)
def test_text_builds_from_every_kind_of_file(folder: Path, kind: str) -> None:
    section = {"source": {"onnx": "m.onnx"}, "evaluate": {"data": FILES[kind](folder), "label": "label"}}
    built = run(folder, section)
    quality = built.report.variant(IMPORTED).quality
    assert quality is not None
    assert (quality.accuracy, quality.agreement, quality.rows) == (1.0, 1.0, 6)
    found = answer(built, colour=[[b"red"], ["blau\u00e9".encode()]], amount=[[2.0], [2.0]])
    assert found["kind"].tolist() == [[b"warm"], [b"cold"]]
    assert found["score"].tolist() == [[4.0], [1.0]]


@pytest.mark.parametrize("method", ["int8-static", "int8-dynamic", "fp16"])
def test_text_may_be_compressed_where_there_is_something_to(folder: Path, method: str) -> None:
    section = {"source": {"onnx": "m.onnx"}, "evaluate": {"data": FILES["U"](folder)}, "compress": method}
    built = run(folder, section)
    found = built.report.variant(method)
    assert found.skipped == "", found.skipped
    assert answer(built, colour=[[b"red"]], amount=[[2.0]])["score"].tolist() == [[4.0]]


def test_without_rows_text_asks_for_some(folder: Path) -> None:
    error = refused(folder, {"source": {"onnx": "m.onnx"}}, "input colour is text, and there is none to try it on")
    assert "evaluate.data" in error.remedy


def test_numbers_where_text_is_wanted_and_the_other_way_are_refused(folder: Path) -> None:
    for colour, amount, says in (
        (np.ones(6), np.ones(6), "has datatype float64, the input has BYTES"),
        (np.array(WORDS), np.array(WORDS), "has datatype text, the input has FP32"),
    ):
        np.savez(folder / "rows.npz", colour=colour, amount=amount)
        with pytest.raises(BadInput, match=says):
            run(folder, {"source": {"onnx": "m.onnx"}, "evaluate": {"data": "rows.npz"}})
