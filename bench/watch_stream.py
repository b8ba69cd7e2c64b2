"""What watching costs a stream: workers in turn, one whose version's rows are looked at and kept in part, and one without.

Whole workers, not turns of one: rows are looked at and kept once their transaction has committed, when the next turn runs.
As a process, `python -m bench.watch_stream JOB PINNED FOLDER SAMPLE`, it drains a topic with the version PINNED, which has a
profile, and keeps such a share of its payloads below FOLDER; with an empty FOLDER it does neither.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.batch_data import Case, write_model
from bench.figures import Figure
from bench.stream import PYTHON, WIDTH, prepared, topic_of
from bench.stream_worker import HeldTable, Job, work
from cluster.control_plane import Told
from cluster.drift.counts import DriftReport
from cluster.routing.routes import RouteTable, Target
from cluster.watch.catalogue import ScoringWay
from cluster.watch.payloads import PayloadFiles, Payloads
from consumers.batch.write.records import Pinned
from consumers.stream.spec import Format, StreamSpec
from deployments.drift.drift_sample import DriftSample
from deployments.observe.meters import Meters
from deployments.observe.payloads.log import PayloadLog
from deployments.scoring.scorer import RoutedScorer

EVENTS = 1_000_000
WATCHED = 3  # the version's number; the tables of other benches have 1 and 2


def watched_stream(rounds: int, profiled: int, sample: float, folder: Path, screen: Console) -> Figure:
    """Binary events a second, watched against unwatched."""
    case = Case("stream", files=0, rows_a_file=0, width=WIDTH, layers=(128, 10))
    pinned = write_model(case, folder / "watched", profiled=profiled).model_dump_json()

    def command(job: Job, below: Path | str) -> list[str]:
        return [PYTHON, "-m", __name__, job.dump(), pinned, str(below), str(sample)]

    with prepared({Format.RAW: EVENTS}, rounds, screen) as bench:
        bench.others = {"watched": lambda job: command(job, folder / "kept"), "plain": lambda job: command(job, "")}
        figure = bench.turns("watch.stream.binary", "watched", "plain", topic_of(bench, {}, Format.RAW), Format.RAW)
    if not any((folder / "kept").rglob("*.parquet")):
        raise RuntimeError("nothing was kept: there is nothing to compare")
    return figure


class WatchedTable(HeldTable):
    """The version with the profile is stable, and payloads are kept where that is told. Counts the rows that it is told of."""

    def __init__(self, job: Job, model: str, pinned: Pinned, payloads: Payloads | None) -> None:
        super().__init__(job, model, canary=False)
        if payloads is not None:
            route = self.table.routes[model]
            target = Target(WATCHED, f"{model}--v{WATCHED}", pinned.artifact_uri, pinned.digest, "onnx", pinned.signature)
            targets = {**route.targets, WATCHED: target}
            self.table = RouteTable(1, {model: replace(route, targets=targets, stable=WATCHED, payloads=payloads)})
        self.looked_at = 0

    async def push(self, told: Told) -> None:
        if isinstance(told, DriftReport):
            self.looked_at += int(told.rows.max(initial=0))


def main() -> None:
    job, pinned, (folder, sample) = Job.load(sys.argv[1]), Pinned.model_validate_json(sys.argv[2]), sys.argv[3:]
    spec = StreamSpec.model_validate_json(job.document)
    kept = Payloads(sample=float(sample), parquet=PayloadFiles(path=folder, every_s=2)) if folder else None
    table = WatchedTable(job, spec.model, pinned, kept)
    meters = Meters()
    payloads, drift = (PayloadLog(meters), DriftSample(meters, ScoringWay.STREAM)) if kept else (None, None)

    def scorer() -> RoutedScorer:
        return RoutedScorer(table, way=ScoringWay.STREAM, meters=meters, payloads=payloads, drift=drift)

    counters = work(job, spec, scorer, meters, payloads, drift)
    if counters.rows_out != job.rows:
        raise SystemExit(f"{counters.rows_out} answers to {job.rows} events")
    if kept and not table.looked_at:
        raise SystemExit("no row was looked at: there is nothing to compare")


if __name__ == "__main__":
    main()
