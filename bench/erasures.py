"""`python -m bench.erasures [--quick] [--json]`: what the keys of data subjects cost, once many were erased.

A real controller over a real SQLite file, in this process; a million erasures are written at once as they would be one by one. A
worker asks for the keys of subjects that it never met, a micro-batch at a time.

| figure | reference |
|---|---|
| `erasures.store` | bytes of the file an erasure; before there were branches, at the same number |
| `erasures.erase`, `.bytes` | one more erasure; the first of all |
| `erasures.erase_100` | one of a hundred at once; one alone |
| `erasures.keys` | the key of a subject, in micro-batches; where nobody was erased |
| `erasures.memory` | what a worker holds that met 25,000 subjects; the size of all branches |
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, show
from cluster.access.callers import CLUSTER, Caller
from cluster.commands.privacy.subjects import (
    BRANCHES,
    REPLACE,
    SHOW,
    ReplaceSubjectKeys,
    SubjectBranches,
    SubjectBranchesAsked,
    SubjectKeysView,
)
from cluster.control_plane import Told
from cluster.controller import Controller
from cluster.routing.routes import EMPTY, RouteTable, Stamp
from cluster.state import State, StoredSubjectKeys
from cluster.store.sql import SqlStore
from consumers.batch.schedule.fake_jobs import FakeJobs
from consumers.stream.sealed.book import SubjectBook, asking
from consumers.stream.serving.fake_feeds import FakeFeeds
from deployments.keys.hpke_key import HpkeKey, new_hpke_pair
from deployments.keys.ring import VARIABLE, KeyRing
from deployments.keys.secret_file import write_once
from deployments.privacy.open_tree import branch_name
from deployments.privacy.sealed_keys import seal_branch, seal_subject_keys
from deployments.privacy.subject_keys import DEPTH, TOP, KeyBranch, SubjectKeys, TreeNode
from deployments.serving.fake_fleet import FakeFleet
from headrace.erasing import erase

ERASED, QUICK_ERASED = 1_000_000, 20_000
ROUNDS, BATCHES, BATCH = 50, 50, 500
WHOLE_NODE_BYTES = 41 * 4 / 3  # of a node in the one document that there was, in base64
NAME = "subjects"


class Local:
    """A control plane over a controller in this process, which counts the bytes that pass."""

    def __init__(self, store: SqlStore) -> None:
        self.controller = Controller(store, FakeFleet(), FakeFeeds(), FakeJobs(), time.time)
        self.passed_bytes = 0

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:  # noqa: ARG002 - the port's
        return EMPTY

    async def push(self, told: Told) -> None:
        """Nothing is told here."""

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        answer = self.controller.call(command, payload, caller)
        for told in (payload, answer):
            self.passed_bytes += len(told.get("document", ""))
            branches = told.get("branches")
            self.passed_bytes += sum(map(len, branches.values())) if isinstance(branches, dict) else 0
        return answer

    def ask(self, command: str, payload: dict[str, Any]) -> dict[str, Any]:
        return asyncio.run(self.call(command, payload))

    def erase(self, subjects: Sequence[str], ring: KeyRing) -> float:
        """Seconds."""

        def show_keys(name: str) -> SubjectKeysView:
            return SubjectKeysView.model_validate(self.ask(SHOW.name, {"name": name}))

        def branches(asked: SubjectBranchesAsked) -> SubjectBranches:
            return SubjectBranches.model_validate(self.ask(BRANCHES.name, asked.model_dump(mode="json")))

        def put(asked: ReplaceSubjectKeys) -> object:
            return self.ask(REPLACE.name, asked.model_dump(mode="json"))

        began_s = time.perf_counter()
        assert len(list(erase(subjects, NAME, ring, show_keys, branches, put))) == len(subjects)
        return time.perf_counter() - began_s


def grown(top: TreeNode, key: bytes, ways: Sequence[int]) -> Iterator[tuple[KeyBranch, bytes]]:
    """The branches of a node below which so many leaves are erased, sealed, each after those below it."""
    branch = KeyBranch.untouched(top, key)
    below: dict[int, list[int]] = {}
    for way in ways:
        below.setdefault(branch.below(way)[1], []).append(way)
    ends: dict[int, bytes] = {}
    for end, leaves in below.items():
        branch, end_key = branch.split((branch.bottom, end))
        ends[end] = b""
        if branch.bottom < DEPTH:
            for child, sealed in grown((branch.bottom, end), end_key, leaves):
                if child.top == (branch.bottom, end):
                    ends[end] = sealed[:32]
                yield child, sealed
    made = KeyBranch(top, branch.bottom, branch.nodes, ends)
    opens, sealed = seal_branch(made, NAME)
    yield made, opens + sealed


def fill(store: SqlStore, holder: HpkeKey, erased: int) -> int:
    """As if so many had been erased; the bytes of all branches."""
    keys = SubjectKeys.new()
    ways = sorted({secrets.randbits(DEPTH) for _ in range(erased)})
    fence, size = store.acquire(), 0
    some: dict[str, bytes] = {}
    root = keys.root
    for branch, sealed in grown(TOP, keys.root.nodes[TOP], ways):
        size += len(sealed) - 32
        if branch.top == TOP:
            root = branch
            continue
        some[f"{NAME}/{branch_name(branch.top)}"] = sealed[32:]
        if len(some) == 10_000:
            store.save(fence, State(), State(), (), branches=some)
            some = {}
    document = seal_subject_keys(SubjectKeys(keys.naming, root), NAME, 1, holder)
    store.save(fence, State(), State(subjects={NAME: StoredSubjectKeys(1, document)}), (), branches=some)
    return size


def asked_s(book: SubjectBook) -> list[float]:
    """How long micro-batches of subjects took that it had not met, in seconds each."""
    took_s = []
    for batch in range(BATCHES):
        names = list(book.pseudonyms(NAME, [f"{batch}/{i}" for i in range(BATCH)]).values())
        began_s = time.perf_counter()
        assert len(book.keys_of(NAME, names)) == BATCH
        took_s.append(time.perf_counter() - began_s)
    return took_s


def measured(folder: Path, erased: int) -> Iterator[Figure]:
    private, public = new_hpke_pair()
    write_once(folder / "k.key", private)
    holder = HpkeKey.of_pem(public, "k")
    ring = KeyRing.from_environment()
    one_s, one_bytes, key_us = {}, {}, {}
    for count in (0, erased):
        path = folder / f"{count}.db"
        store = SqlStore(f"sqlite:///{path}")
        size = fill(store, holder, count)
        if count:
            levels = DEPTH - (count.bit_length() - 1)
            yield Figure("erasures.store", path.stat().st_size / count, levels * WHOLE_NODE_BYTES, "bytes an erasure")
        control = Local(store)
        key_us[count] = statistics.median(asked_s(SubjectBook(asking(control)))) / BATCH * 1e6
        tracemalloc.start()
        book = SubjectBook(asking(control))
        asked_s(book)
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        control.passed_bytes = 0
        one_s[count] = statistics.median(control.erase([f"erased {i}"], ring) for i in range(ROUNDS))
        one_bytes[count] = control.passed_bytes / ROUNDS
        hundred_s = control.erase([f"also {i}" for i in range(100)], ring) / 100
        store.close()
    yield Figure("erasures.erase", one_s[erased] * 1e3, one_s[0] * 1e3, "ms")
    yield Figure("erasures.erase.bytes", one_bytes[erased], one_bytes[0], "bytes")
    yield Figure("erasures.erase_100", hundred_s * 1e3, one_s[erased] * 1e3, "ms an erasure")
    yield Figure("erasures.keys", key_us[erased], key_us[0], "us a subject")
    yield Figure("erasures.memory", held_bytes / 1e6, size / 1e6, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 erasures")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = f"file:{folder}"  # of this process alone
        show(list(measured(Path(folder), QUICK_ERASED if options.quick else ERASED)), as_json=options.json)


if __name__ == "__main__":
    main()
