"""What watching costs a stream: one worker, in turn with a version whose rows are looked at and kept in part, and one without.

As a process, `python -m bench.watch_stream JOB PINNED FOLDER SAMPLE`, it drains a topic and prints its turns: those of the
version PINNED, which has a profile, and of whose payloads such a share goes below FOLDER, are the first of each pair.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import orjson
from rich.console import Console

from bench.batch_data import Case, write_model
from bench.figures import Figure
from bench.paired import paired
from bench.stream import PYTHON, WIDTH, prepared, topic_of
from bench.stream_canary import Batch, ScorerInTurn, TableInTurn, turns_of, turns_told
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

EVENTS = 1_000_000
WATCHED = 3  # the version's number; the tables of other benches have 1 and 2


def watched_stream(passes: int, profiled: int, sample: float, folder: Path, screen: Console) -> Figure:
    """Binary events a second, watched against unwatched."""
    with prepared({Format.RAW: EVENTS}, 1, screen) as bench:
        topic = topic_of(bench, {}, Format.RAW)
        bench.warm_up(topic, Format.RAW)
        case = Case("stream", files=0, rows_a_file=0, width=WIDTH, layers=(128, 10))
        pinned = write_model(case, folder / "watched", profiled=profiled).model_dump_json()
        turns = []
        for at in range(passes):
            kept = folder / f"kept-{at}"
            job = bench.job(bench.spec(topic, Format.RAW)).dump()
            turns += turns_told([PYTHON, "-m", __name__, job, pinned, str(kept), str(sample)])
            if not any(kept.rglob("*.parquet")):
                raise RuntimeError("nothing was kept: there is nothing to compare")
    watched, plain = ([turn.events_per_s for turn in turns if turn.canary is side] for side in (True, False))
    return paired("watch.stream.binary", watched, plain, "events/s", screen)


class WatchedInTurn(TableInTurn):
    """The version with the profile is stable, and payloads are kept; and neither, in turn. Counts the rows that it is told of."""

    def __init__(self, job: Job, model: str, pinned: Pinned, payloads: Payloads) -> None:
        route = HeldTable(job, model, canary=False).table.routes[model]
        target = Target(WATCHED, f"{model}--v{WATCHED}", pinned.artifact_uri, pinned.digest, "onnx", pinned.signature)
        # Both versions stay loaded.
        plain = replace(route, targets={**route.targets, WATCHED: target})
        super().__init__(job, model, RouteTable(1, {model: plain}))
        self.table = RouteTable(1, {model: replace(plain, stable=WATCHED, payloads=payloads)})
        self.looked_at = 0

    async def push(self, told: Told) -> None:
        if isinstance(told, DriftReport):
            self.looked_at += int(told.rows.max(initial=0))


def main() -> None:
    job, pinned, (folder, sample) = Job.load(sys.argv[1]), Pinned.model_validate_json(sys.argv[2]), sys.argv[3:]
    spec = StreamSpec.model_validate_json(job.document)
    kept = Payloads(sample=float(sample), parquet=PayloadFiles(path=folder, every_s=2))
    table = WatchedInTurn(job, spec.model, pinned, kept)
    meters, batches = Meters(), list[Batch]()
    payloads, drift = PayloadLog(meters), DriftSample(meters, ScoringWay.STREAM)

    def scorer() -> ScorerInTurn:
        options = {"way": ScoringWay.STREAM, "meters": meters, "payloads": payloads, "drift": drift}
        return ScorerInTurn(table, batches, lambda call: call.target.version == WATCHED, **options)

    counters = work(job, spec, scorer, meters, payloads, drift)
    if counters.rows_out != job.rows:
        raise SystemExit(f"{counters.rows_out} answers to {job.rows} events")
    if not table.looked_at:
        raise SystemExit("no row was looked at: there is nothing to compare")
    sys.stdout.buffer.write(orjson.dumps(turns_of(batches)))


if __name__ == "__main__":
    main()
