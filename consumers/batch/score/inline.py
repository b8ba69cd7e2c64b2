"""Runs units in this process, one after the other: without a cluster, for small datasets and for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

from consumers.batch.plan import Unit
from consumers.batch.run import Workforce
from consumers.batch.score.rowscorer import RowScorer
from consumers.batch.score.unit import UnitRunner
from consumers.batch.score.unit_payloads import unit_payloads
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import Receipt, RunRecord
from deployments.artifacts.places import locate


def inline_workforce(make_scorer: Callable[[RunRecord], RowScorer]) -> Workforce:
    """One worker: this process. `make_scorer` is called once a run."""

    def score(ledger: Ledger, record: RunRecord, units: Sequence[Unit], _workers: int) -> Iterator[Receipt]:
        payloads = unit_payloads(record.name, record.pinned, lambda: None)
        runner = UnitRunner(ledger, record, locate(record.spec.input.paths[0]).filesystem, make_scorer(record), payloads)
        return (runner.run(unit) for unit in units)

    return Workforce(workers=lambda _spec: 1, score=score, hold=lambda _home, _name: nullcontext())
