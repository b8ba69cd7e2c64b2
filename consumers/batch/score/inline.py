"""Runs units in this process, one after the other: without a cluster, for small datasets and for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from consumers.batch.plan import Unit
from consumers.batch.run import Workforce
from consumers.batch.score.rowscorer import RowScorer
from consumers.batch.score.unit import UnitRunner
from consumers.batch.score.unit_payloads import unit_payloads
from consumers.batch.score.watched_rows import WatchedRows
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import Receipt, RunRecord
from deployments.artifacts.places import Place, locate


def inline_workforce(
    make_scorer: Callable[[RunRecord], RowScorer], watch: Callable[[RunRecord], WatchedRows] | None = None
) -> Workforce:
    """One worker: this process. `make_scorer` is called once a run, and so is `watch`; without it nobody looks at rows."""

    def score(ledger: Ledger, record: RunRecord, units: Sequence[Unit], _workers: int) -> Iterator[Receipt]:
        payloads = unit_payloads(record.name, record.pinned, lambda: None)
        filesystem, watched = locate(record.spec.input.paths[0]).filesystem, watch and watch(record)
        runner = UnitRunner(ledger, record, filesystem, make_scorer(record), payloads=payloads, watched=watched)
        return (runner.run(unit) for unit in units)

    return Workforce(workers=lambda _spec: 1, score=score, hold=_hold)


def _hold(home: Place, name: str, *, wait: bool) -> AbstractContextManager[None]:  # noqa: ARG001
    return nullcontext()
