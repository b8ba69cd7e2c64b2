"""A row of a file: what is no row is told by its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from headrace.cli.explain.row_file import read_row

SIGNATURE = Signature(inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),), outputs=())


def written(folder: Path, document: Any) -> Path:
    file = folder / "row.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def test_a_row_of_an_inference_request(tmp_path: Path) -> None:
    file = written(tmp_path, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]})
    assert read_row(file, SIGNATURE, 1)["x"].tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("shape", [[2, "b"], [1, 3], [1, None]])
def test_a_shape_that_does_not_fit_its_data_is_told(tmp_path: Path, shape: list[Any]) -> None:
    file = written(tmp_path, {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": [1, 2]}]})
    with pytest.raises(BadInput, match="the shapes of its tensors do not fit their data"):
        read_row(file, SIGNATURE, 0)
