"""`python -m bench.stream_encrypted [--quick] [--json]`: what encrypted fields cost a stream.

Whole workers in turn, as in `bench.stream`: one that encrypts its answers for 1,000 subjects, and one that reads the same 784
numbers encrypted, 10 kB each, beside one that does neither. The reference of both is that one; so it is of `no_section`, which is
the same once more: what is left of a difference there is this machine's.

As a process, `python -m bench.stream_encrypted JOB FOLDER`, it is such a worker, with the subject keys below FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console

from bench.erasures import Local
from bench.figures import Figure, show
from bench.stream import EVENTS, KEYS, PYTHON, QUICK_EVENTS, WIDTH, Bench, fill_with, json_value, make_topics, prepared, topic_of
from bench.stream_worker import HeldTable, Job, work
from cluster.store.sql import SqlStore
from consumers.stream.sealed.book import SubjectBook, asking
from consumers.stream.sealed.section import DecryptedInput, EncryptedOutput
from consumers.stream.spec import Format, StreamSpec
from deployments.keys.hpke_key import new_hpke_pair
from deployments.keys.ring import VARIABLE
from deployments.keys.secret_file import write_once
from deployments.privacy.fields import seal_field
from deployments.scoring.scorer import RoutedScorer

NAME, KEY, SEALED = "subjects", "k", "bench-sealed"


def book_of(folder: Path) -> SubjectBook:
    """Keys as a controller of this process has them."""
    book = SubjectBook(asking(Local(SqlStore(f"sqlite:///{folder / 'store.db'}"))))
    book.open(NAME, KEY)
    return book


def sealed_values(folder: Path) -> list[bytes]:
    """One a subject: the numbers of `json_value`, encrypted as another stream does."""
    book = book_of(folder)
    rows = np.random.default_rng(0).random((KEYS, WIDTH), dtype=np.float32)
    names = book.pseudonyms(NAME, [f"key {i}" for i in range(KEYS)])
    keys = book.keys_of(NAME, names.values())
    values = []
    for row, name in zip(rows, names.values(), strict=True):
        number = orjson.dumps(orjson.loads(json_value(row))["x"])
        values.append(
            orjson.dumps({"x": seal_field(number, keys[name] or b"", keys=NAME, pseudonym=name, topic=SEALED, field="x")})
        )
    return values


def measured(bench: Bench, folder: Path) -> Iterator[Figure]:
    (output,) = bench.pinned.signature.outputs

    def command(job: Job, way: str) -> list[str]:
        spec = StreamSpec.model_validate_json(job.document)
        if way == "encrypts":
            encrypt = EncryptedOutput(fields=(output.name,), key=KEY)
            spec = spec.model_copy(update={"output": spec.output.model_copy(update={"encrypt": encrypt})})
        elif way == "decrypts":
            source = {"topic": SEALED, "decrypt": DecryptedInput(fields=("x",))}
            spec = spec.model_copy(update={"input": spec.input.model_copy(update=source)})
        return [PYTHON, "-m", __name__, replace(job, document=spec.model_dump_json()).dump(), str(folder)]

    topic = topic_of(bench, {}, Format.JSON)
    make_topics(bench.brokers, SEALED)
    fill_with(bench.brokers, SEALED, bench.events[Format.JSON], sealed_values(folder))
    ways = ("encrypts", "decrypts", "no_section", "plain")
    bench.others = {way: lambda job, way=way: command(job, way) for way in ways}  # type: ignore[misc]  # the default binds it
    for way in ways[:-1]:
        yield bench.turns(f"stream.json.{way}", way, "plain", topic, Format.JSON)


def drain(job: Job, folder: Path) -> None:
    spec = StreamSpec.model_validate_json(job.document)
    counters = work(job, spec, lambda: RoutedScorer(HeldTable(job, spec.model)), subjects=book_of(folder))
    if counters.rows_out != job.rows:
        raise SystemExit(f"{counters.rows_out} answers to {job.rows} events")


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        drain(Job.load(sys.argv[1]), Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer events, one round")
    parser.add_argument("--events", type=int, help="how many events to drain")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    events = QUICK_EVENTS if options.quick else EVENTS
    events = dict.fromkeys(events, options.events) if options.events else events
    with tempfile.TemporaryDirectory() as name, prepared(events, 1 if options.quick else 5, Console(stderr=True)) as bench:
        folder = Path(name)
        write_once(folder / f"{KEY}.key", new_hpke_pair()[0])
        os.environ[VARIABLE] = f"file:{folder}"  # of this process, and of its workers
        show(list(measured(bench, folder)), as_json=options.json)


if __name__ == "__main__":
    main()
