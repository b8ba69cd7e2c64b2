"""What the version answers becomes columns that readers can use."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.score.answers import output_columns, to_columns
from consumers.batch.spec import BatchOutput

SIGNATURE = Signature(
    inputs=(),
    outputs=(
        TensorSpec(name="label", datatype=Datatype.BYTES, shape=(-1, 1)),
        TensorSpec(name="words", datatype=Datatype.BYTES, shape=(-1, 2)),
    ),
)


def output(**columns: str) -> BatchOutput:
    return BatchOutput.model_validate({"path": "out", "columns": columns})


@pytest.mark.parametrize("rows", [0, 2])
def test_text_is_written_as_strings_also_where_there_are_no_rows(rows: int) -> None:
    label = np.array([[b"good"], ["schl\u00e9cht".encode()]], object)[:rows]
    words = np.concatenate([label, label], axis=1)
    columns = output_columns(output(decision="label", both="words"), SIGNATURE)
    found = to_columns(columns, {"label": label, "words": words}, rows, model="m", version=1)
    assert found["decision"].type == pa.string()
    assert found["decision"].to_pylist() == ["good", "schl\u00e9cht"][:rows]
    assert found["both"].to_pylist() == [["good", "good"], ["schl\u00e9cht", "schl\u00e9cht"]][:rows]


@pytest.mark.parametrize("source", ["argmax(words)", "max(label)"])
def test_text_has_no_largest_value(source: str) -> None:
    with pytest.raises(BadInput, match=r"needs numbers, and (words|label) is text"):
        output_columns(output(decision=source), SIGNATURE)
