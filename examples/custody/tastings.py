"""Wines of two customers, sent to the stream; and what can be opened of its answers.

`python -m examples.custody.tastings send` and `... read`, with the example's home as HEADRACE_HOME.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from kafka import KafkaProducer

from deployments.privacy.fields import owner_of
from examples.local_run import headrace
from examples.topics import read_records
from headrace.opening import FieldOpener, FieldState

CUSTOMERS = ("customer-4711", "customer-4712")
WINES = 6
INPUT, OUTPUT, FIELD = "wine-in", "wine-out", "label"
ROWS = Path(__file__).with_name("out") / "test.npz"
SHOWN = 52


@dataclass(frozen=True, slots=True)
class Answer:
    """What the stream said of a customer's wine: the label as it lies in the topic, encrypted, and the pseudonym in it."""

    customer: str
    label: str
    pseudonym: str


def wines() -> np.ndarray:
    """[6, 13], float32. The first is the first customer's, the second the other's, and so on."""
    with np.load(ROWS) as told:
        some: np.ndarray = told["wine"][:WINES]
    return some


def send(brokers: str) -> None:
    """A record a wine."""
    producer = KafkaProducer(bootstrap_servers=brokers)
    for place, wine in enumerate(wines().tolist()):
        producer.send(INPUT, orjson.dumps({"wine": wine}), CUSTOMERS[place % len(CUSTOMERS)].encode())
    producer.close()


def read(brokers: str) -> list[Answer]:
    """The answers to the wines that were sent first, in their order, as anybody reads them who may read the topic."""
    return [_answer(record.key, record.value) for record in read_records(brokers, OUTPUT, WINES)]


def opened(answers: Sequence[Answer]) -> Iterator[int | None]:
    """Each label; None where its subject's key was destroyed. For any program that has the key `people` (HEADRACE_KEYS, or the
    home's folder of keys) and is an admin's. A stream with `decrypt` does the same by itself."""
    with FieldOpener.from_environment() as opener:
        found = opener.open([answer.label for answer in answers], topic=OUTPUT, name=FIELD)
    for one in found:
        yield None if one.state is FieldState.ERASED else one.value


def broker() -> str:
    """Where the example's Kafka is."""
    found: str = json.loads(headrace("status", "--json", show=False))["addresses"]["broker"]
    return found


def _answer(key: bytes, value: bytes) -> Answer:
    label = orjson.loads(value)[FIELD]
    owner = owner_of(label)
    if owner is None:
        raise SystemExit(f"a label in {OUTPUT} is not encrypted")
    return Answer(key.decode(), label, pseudonym=owner[1])


def main(what: str) -> None:
    """`send` or `read`."""
    if what == "send":
        send(broker())
        return
    answers = read(broker())
    for answer, label in zip(answers, opened(answers), strict=True):
        told = "nothing opens it" if label is None else f"grower {label}"
        print(f"{answer.customer}  {answer.label[:SHOWN]}...  {told}")


if __name__ == "__main__":
    main(sys.argv[1])
