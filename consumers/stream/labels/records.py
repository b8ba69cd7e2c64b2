"""A record of a topic of labels as a label. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import orjson

from cluster.commands.labels import Label
from consumers.stream.log.port import Header
from consumers.stream.outgoing.answers import LABEL_KEY_HEADER
from consumers.stream.spec import LabelTopic


class LabelRecord(Protocol):
    """What is looked at of a client's record."""

    offset: int
    value: bytes | None
    headers: Sequence[Header]


def labels_in(records: Iterable[LabelRecord], topic: LabelTopic) -> tuple[tuple[Label, ...], int]:
    """The labels, each with its offset as its sequence, and how many records hold none."""
    found = [label_in(record, topic) for record in records]
    labels = tuple(label for label in found if label is not None)
    return labels, len(found) - len(labels)


def label_in(record: LabelRecord, topic: LabelTopic) -> Label | None:
    """The label of a JSON object; its key may also come in the header that the answer had. None where there is no such thing.

    A label that is no number is one all the same: the controller says what is wrong with it.
    """
    try:
        value = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or topic.value not in value:
        return None
    key = dict(record.headers).get(LABEL_KEY_HEADER)
    named = value.get(topic.key) if key is None else key.decode("utf-8", "replace")
    if not isinstance(named, str):
        return None
    label = value[topic.value]
    return Label(key=named, label=label if isinstance(label, str | int | float) else None, sequence=record.offset)
