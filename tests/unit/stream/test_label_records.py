"""A record of a topic of labels: a label, or none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.commands.labels import Label
from consumers.stream.labels.records import label_in, labels_in
from consumers.stream.spec import LabelTopic, StreamInput, StreamOutput, StreamSpec, Topic

KEY = "0/2/1@1767225600/orders/0/1234"
TRUTH = LabelTopic(topic="truth", key="answer", value="churned")


@dataclass
class Record:
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    offset: int = 17


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (b'{"answer": "%s", "churned": 1}', 1),
        (b'{"answer": "%s", "churned": true, "more": [1]}', 1),
        (b'{"answer": "%s", "churned": "1"}', "1"),
        (b'{"answer": "%s", "churned": "no"}', "no"),  # the controller says what is wrong with it
        (b'{"answer": "%s", "churned": null}', None),
        (b'{"answer": "%s", "churned": {"a": 1}}', None),
    ],
)
def test_what_is_a_label(value: bytes, label: float | str | None) -> None:
    assert label_in(Record(value % KEY.encode()), TRUTH) == Label(key=KEY, label=label, sequence=17)


@pytest.mark.parametrize(
    "value", [None, b"", b"nonsense", b"[1]", b'{"answer": 7, "churned": 1}', b'{"churned": 1}', b'{"answer": "x"}']
)
def test_what_is_none(value: bytes | None) -> None:
    assert label_in(Record(value), TRUTH) is None


def test_the_key_may_come_as_the_answer_had_it() -> None:
    record = Record(b'{"churned": 0}', [("headrace.label_key", KEY.encode()), ("other", b"x")])
    assert label_in(record, TRUTH) == Label(key=KEY, label=0, sequence=17)
    bad = Record(b'{"churned": 0}', [("headrace.label_key", b"\xff")])
    assert labels_in([record, Record(None), bad], TRUTH)[1] == 1  # what is no key is the controller's to say


def spec(**labels: Any) -> StreamSpec:
    return StreamSpec.model_validate(
        {
            "model": "m",
            "input": StreamInput(topic="in"),
            "output": StreamOutput(topic="out"),
            "dead_letters": Topic(topic="dead"),
            "labels": labels,
        }
    )


def test_labels_have_a_topic_of_their_own() -> None:
    assert spec(topic="truth").labels == LabelTopic(topic="truth", key="key", value="label")
    for topic in ("in", "out", "dead"):
        with pytest.raises(ValidationError, match="labels need a topic of their own"):
            spec(topic=topic)
