"""One model by hand, as a team would: build, HTTP, stream, batch; then all answers are held against the model's own.

`python -m examples.credit.demo` and `python -m examples.tumours.demo` call this.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pyarrow.dataset as ds
from kafka import KafkaProducer

from examples.local_run import begin_afresh, headrace, running
from examples.topics import read_records

NEAR = 1e-5


@dataclass(frozen=True, slots=True)
class Example:
    """A folder with train.py and project/. `inputs` are the columns of events.parquet that make each input of the model,
    `positive` is the place of the probability that events.parquet holds."""

    folder: Path
    name: str
    inputs: Mapping[str, Sequence[str]]
    positive: int

    @property
    def out(self) -> Path:
        """Where everything is written."""
        return self.folder / "out"


@dataclass(frozen=True, slots=True)
class Answers:
    """Of all events, by id: labels [n] and the positive class's probabilities [n]."""

    labels: list[Any]
    probabilities: list[float]


def run(example: Example) -> int:
    """All steps. Returns 0 where every way gave the model's own answers."""
    started_s = time.monotonic()
    begin_afresh(example.out)
    project = example.folder / "project"
    with running(example.out, "--broker") as addresses:
        headrace("build", str(project / "model.yaml"))
        headrace("apply", *(word for name in ("model", "stream", "batch") for word in ("-f", str(project / f"{name}.yaml"))))
        events = pd.read_parquet(example.out / "events.parquet").sort_values("id")
        found = {
            "HTTP": by_http(example, addresses["http"], events),
            "stream": by_stream(example, addresses["broker"], events),
            "batch": by_batch(example),
        }
    own = Answers(events["label"].tolist(), events["probability"].tolist())
    agreeing = [agree(way, answers, own) for way, answers in found.items()]
    good = all(agreeing)
    print(f"{'All three ways answer alike.' if good else 'The ways differ.'} {time.monotonic() - started_s:.0f} s.")
    return 0 if good else 1


def agree(way: str, found: Answers, own: Answers) -> bool:
    """Prints and answers whether these are the model's own answers."""
    labels = sum(mine == other for mine, other in zip(found.labels, own.labels, strict=True))
    apart = float(np.abs(np.array(found.probabilities) - np.array(own.probabilities)).max())
    print(f"{way:>6}: {labels} of {len(own.labels)} labels as the model's own; probabilities within {apart:.1e}")
    return labels == len(own.labels) and apart <= NEAR


def by_http(example: Example, url: str, events: pd.DataFrame) -> Answers:
    """All events in one call, as JSON."""
    inputs = []
    for name, columns in example.inputs.items():
        data = _values(events, columns)
        kind = "FP32" if events[columns[0]].dtype.kind in "iuf" else "BYTES"
        inputs.append({"name": name, "datatype": kind, "shape": [len(events), len(columns)], "data": data})
    answer = httpx.post(f"{url}/v2/models/{example.name}/infer", json={"inputs": inputs}, timeout=60)
    if answer.status_code != 200:
        raise SystemExit(f"HTTP {answer.status_code}: {answer.text[:500]}")
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    return Answers(outputs["label"], np.array(outputs["probabilities"]).reshape(len(events), -1)[:, example.positive].tolist())


def by_stream(example: Example, brokers: str, events: pd.DataFrame) -> Answers:
    """Each event as a record with its id as key, and the answers by key."""
    columns = {name: _values(events, columns) for name, columns in example.inputs.items()}
    widths = {name: len(columns) for name, columns in example.inputs.items()}
    producer = KafkaProducer(bootstrap_servers=brokers, linger_ms=20)
    for place, key in enumerate(events["id"]):
        value = {
            name: data[place] if widths[name] == 1 else data[place * widths[name] : (place + 1) * widths[name]]
            for name, data in columns.items()
        }
        producer.send(f"{example.name}-in", orjson.dumps(value), str(key).encode())
    producer.close()
    found: dict[int, Any] = {}
    for value in read_records(brokers, f"{example.name}-out", len(events)):
        found[int(value.key)] = orjson.loads(value.value)
    rows = [found[key] for key in events["id"]]
    return Answers([row["label"] for row in rows], [row["probabilities"][example.positive] for row in rows])


def by_batch(example: Example) -> Answers:
    """The Parquet file in bulk."""
    headrace("batch", "run", example.name)
    table = ds.dataset(example.out / "scored", format="parquet").to_table().sort_by("id")
    return Answers(table["label"].to_pylist(), [row[example.positive] for row in table["probabilities"].to_pylist()])


def _values(events: pd.DataFrame, columns: Sequence[str]) -> list[Any]:
    """Row after row; a missing number is None, as in JSON."""
    flat = events[list(columns)].to_numpy(dtype=object).ravel().tolist()
    return [None if isinstance(item, float) and np.isnan(item) else item for item in flat]
