"""Events of a topic read back: ours, KServe's pairs, and what is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.payload_replay.recorded_events import MOST_HALVES, EventReader
from deployments.observe.payloads.cloudevents import PayloadRecord, of_kserve, of_ours
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome
from tests.support.payloads import payload_event

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3)),),
    outputs=(TensorSpec(name="sum", datatype=Datatype.FP32, shape=(-1,)),),
)


def read(*records: PayloadRecord, signature: Signature = SIGNATURE) -> list[tuple[PayloadOutcome, object, object]]:
    reader = EventReader("digits", signature)
    found = (reader.take(one.headers, one.value, "t/0/7") for one in records)
    return [(one.outcome, one.inputs["x"].tolist(), {k: v.tolist() for k, v in one.outputs.items()}) for one in found if one]


@pytest.mark.parametrize("form", [of_ours, of_kserve])
def test_what_is_written_is_read(form: object) -> None:
    events = [payload_event(1), payload_event(2, failed=True), payload_event(3, model="other")]
    assert callable(form)
    assert read(*[record for event in events for record in form(event)]) == [
        (PayloadOutcome.OK, [[1.0] * 3] * 2, {"sum": [3.0, 3.0]}),
        (PayloadOutcome.ERROR, [[2.0] * 3] * 2, {}),
    ]


def test_nan_comes_back_and_bytes_that_are_no_text() -> None:
    event = payload_event(1, rows=1)
    x = np.array([[1, np.nan, 3]], np.float32)
    raw = np.array([b"\xff\x00"], np.object_)
    both = Signature(
        inputs=(*SIGNATURE.inputs, TensorSpec(name="raw", datatype=Datatype.BYTES, shape=(-1,))), outputs=SIGNATURE.outputs
    )
    (record,) = of_ours(replace(event, inputs={"x": x, "raw": raw}))
    found = EventReader("digits", both).take(record.headers, record.value, "t/0/7")
    assert found is not None
    np.testing.assert_array_equal(found.inputs["x"], x)
    assert found.inputs["raw"].tolist() == [b"\xff\x00"]


def test_halves_that_come_mixed_are_put_together_and_lone_ones_left_out() -> None:
    (asked_1, told_1), (asked_2, told_2), (_, lone) = (of_kserve(payload_event(n)) for n in (1, 2, 3))
    found = read(lone, asked_1, asked_2, told_2, told_1)
    assert [inputs for _, inputs, _ in found] == [[[2.0] * 3] * 2, [[1.0] * 3] * 2]


def test_requests_without_a_response_are_bounded() -> None:
    first, *others = (of_kserve(payload_event(n, rows=1)) for n in range(MOST_HALVES + 1))
    reader = EventReader("digits", SIGNATURE)
    for asked, _ in [first, *others]:
        assert reader.take(asked.headers, asked.value, "t/0/7") is None
    assert reader.take(first[1].headers, first[1].value, "t/0/7") is None
    assert reader.take(others[0][1].headers, others[0][1].value, "t/0/7") is not None


def redone(event: PayloadEvent, old: bytes, new: bytes) -> PayloadRecord:
    (record,) = of_ours(event)
    assert old in record.value
    return replace(record, value=record.value.replace(old, new))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (PayloadRecord(b"", b"{}", []), "no event of a payload log"),
        (redone(payload_event(1), b'{"id"', b'["id"'), "can't be read"),
        (redone(payload_event(1), b"[2,3]", b"[3,2]"), r"x is \[3, 2\], which is not"),
        (redone(payload_event(1), b'"x"', b'"z"'), "no input x"),
        (redone(payload_event(31337), b"31337.0", b'"31337.0?"'), "can't be read"),
    ],
)
def test_what_is_none_is_told_by_its_place_and_not_by_its_values(record: PayloadRecord, words: str) -> None:
    with pytest.raises(BadInput, match=words) as told:
        read(record)
    assert "t/0/7" in str(told.value)
    assert "31337" not in str(told.value)
