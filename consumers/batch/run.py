"""A batch run from beginning to end: plan, score what is not done yet, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from cluster.errors import BadInput, Conflict, NotFound
from consumers.batch.plan import Unit, plan
from consumers.batch.read.columns import bind
from consumers.batch.read.dataset import Dataset, discover, with_date
from consumers.batch.read.hive import check_keys
from consumers.batch.read.listing import covers
from consumers.batch.score.answers import outliers_of, output_columns
from consumers.batch.spec import BatchSpec, OnRunning
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.lock import file_lock
from consumers.batch.write.output import empty_output
from consumers.batch.write.publish import RunManifest, check_staged, manifest_of, publish, read_manifest
from consumers.batch.write.quarantine import too_many_bad
from consumers.batch.write.records import Pinned, Receipt, RunPhase, RunRecord, Totals, remaining, schema_text, to_repeat, totals
from consumers.batch.write.retention import retire_old, scored_before
from consumers.batch.write.runs import RunHistory, new_run_id
from deployments.artifacts.places import Place, explaining, locate
from deployments.explain.asking import section_options
from deployments.privacy.parquet import check_key

ScoreUnits = Callable[[Ledger, RunRecord, Sequence[Unit], int], Iterable[Receipt]]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is. `rows_per_s` and `left_s` are of this attempt; None before the first unit ends."""

    units: int
    units_done: int
    rows: int
    rows_done: int
    quarantined: int
    rows_per_s: float | None
    left_s: float | None


Watcher = Callable[[RunProgress], None]


class NothingNew(BadInput):
    """`only_new` leaves no file over: not a failure to a schedule."""


class Hold(Protocol):
    """Keeps other runs out of an output while the block runs. With `wait` blocks until the other run is over; else raises
    Conflict."""

    def __call__(self, home: Place, name: str, *, wait: bool) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Workforce:
    """What runs units: how many at a time, how, and what else keeps a second run out where files can't be locked.

    `pool.ray_workforce` is the one on a cluster; `inline.inline_workforce` needs none.
    """

    workers: Callable[[BatchSpec], int]
    score: ScoreUnits
    hold: Hold


def begin(
    name: str,
    spec: BatchSpec,
    pinned: Pinned,
    workforce: Workforce,
    *,
    as_of: date | None,
    fresh: bool,
    watch: Watcher,
    fire: str = "",
) -> RunManifest:
    """Runs the batch anew and returns its published manifest. Blocks until it is done.

    `fire` names the moment of a schedule: its run is made once, however often it is asked for. An unfinished one goes on with
    the version that it began with, a published one is only told of.

    `fresh` gives up a run that was left unfinished. Raises Conflict where one is there or another process runs the batch,
    BadInput for everything about the input or output that can be known beforehand, and whatever stopped the work: then
    `resume` goes on.
    """
    runs = RunHistory(locate(spec.output.path))
    with explaining(runs.home.path), _only_run(runs.home, name, workforce, wait=spec.on_running is OnRunning.QUEUE):
        earlier = runs.of_fire(fire) if fire else None
        if earlier is not None:
            published = earlier.phase() is RunPhase.PUBLISHED
            return read_manifest(earlier) if published else _continue(earlier, runs, workforce, watch)
        left = runs.unfinished()
        if left is not None and not fresh:
            raise Conflict(
                f"run {left.run_id} is unfinished: {left.done()} of {len(left.units())} units are done",
                where=name,
                remedy="go on with `headrace batch resume`, or give it up with --fresh",
            )
        if left is not None:
            left.remove()
        ledger, record, units = _prepare(name, spec, pinned, runs, workforce, as_of=as_of, fire=fire)
        return _work(ledger, record, units, runs, workforce, watch)


def resume(name: str, output_uri: str, workforce: Workforce, *, watch: Watcher, run_id: str = "") -> RunManifest:
    """Goes on with the unfinished run of this output, with the version and the plan it began with.

    Raises NotFound where no run is unfinished, Conflict where it is not `run_id`, if that is said, and otherwise as `begin`.
    """
    runs = RunHistory(locate(output_uri))
    with explaining(runs.home.path), _only_run(runs.home, name, workforce, wait=False):
        ledger = runs.unfinished()
        if ledger is None:
            raise NotFound("no run is unfinished", where=name, remedy="begin one with `headrace batch run`")
        if run_id not in ("", ledger.run_id):
            raise Conflict(
                f"not run {run_id} is unfinished, but {ledger.run_id}", where=name, remedy="look again, and go on with that"
            )
        return _continue(ledger, runs, workforce, watch)


def _continue(ledger: Ledger, runs: RunHistory, workforce: Workforce, watch: Watcher) -> RunManifest:
    return _work(ledger, ledger.record(), ledger.units(), runs, workforce, watch)


def _only_run(home: Place, name: str, workforce: Workforce, *, wait: bool) -> AbstractContextManager[None]:
    return file_lock(home, name, wait=wait) if home.is_local else workforce.hold(home, name, wait=wait)


def _prepare(
    name: str, spec: BatchSpec, pinned: Pinned, runs: RunHistory, workforce: Workforce, *, as_of: date | None, fire: str
) -> tuple[Ledger, RunRecord, tuple[Unit, ...]]:
    dated = spec.model_copy(update={"input": with_date(spec.input, as_of)})
    _check_apart(dated)
    check_key(dated.output.encrypt, "where the batch is begun")
    dataset = discover(dated.input, pinned.signature, known=scored_before(runs) if dated.input.only_new else {})
    dated = dated.model_copy(update={"input": dataset.spec})
    if not dataset.rows:
        where = ", ".join(dated.input.paths)
        if dated.input.only_new:
            raise NothingNew(_nothing_new(dataset), where=where, remedy="there is nothing to score")
        raise BadInput("the dataset has no rows", where=where, remedy="there is nothing to score")
    _check_columns(dataset, dated, pinned)
    units = plan(
        dataset.files,
        max_rows=min(dated.units.max_rows, dated.output.max_file_rows),
        max_bytes=dated.units.max_bytes,
        workers=workforce.workers(dated),
    )
    now = time.time()
    run_id = new_run_id(now)
    record = RunRecord(
        run_id=run_id,
        name=name,
        spec=dated,
        pinned=pinned,
        as_of=as_of.isoformat() if as_of else None,
        started_s=now,
        schema_ipc=schema_text(dataset.schema),
        files=len(dataset.files),
        rows=dataset.rows,
        damaged=tuple((bad.path, bad.size_bytes, bad.reason) for bad in dataset.damaged),
        fire=fire,
        int96_unit=dataset.int96_unit,
        others=len(dataset.others),
    )
    ledger = runs.new(run_id)
    ledger.begin(record, units)
    return ledger, record, units


def _nothing_new(dataset: Dataset) -> str:
    """What is left out as damaged is told each time, until it is mended or gone."""
    told = f", but {len(dataset.damaged)} can't be read, e.g. {dataset.damaged[0].path}" if dataset.damaged else ""
    return f"no file is new{told}"


def _check_apart(spec: BatchSpec) -> None:
    output = locate(spec.output.path)
    if covers(spec.input, output):
        raise BadInput(
            f"the output {output.path} lies inside the input, or holds it: a run would read or replace its own files",
            where="spec.output.path",
            remedy="write to a directory of its own",
        )


def _check_columns(dataset: Dataset, spec: BatchSpec, pinned: Pinned) -> None:
    bind(dataset.schema, pinned.signature, spec.input, where=dataset.files[0].path)
    check_keys(dataset.schema, spec.output.partition_by)
    columns = output_columns(spec.output, pinned.signature)
    if spec.explain is not None:
        section_options(spec.explain, pinned.signature)
    outliers_of(columns, pinned)
    clash = sorted(set(columns) & set(spec.input.passthrough))
    if clash:
        raise BadInput(
            f"columns {', '.join(clash)} are both passed through and written",
            where="spec.output.columns",
            remedy="name the written ones otherwise in spec.output.columns",
        )


def _work(
    ledger: Ledger, record: RunRecord, units: Sequence[Unit], runs: RunHistory, workforce: Workforce, watch: Watcher
) -> RunManifest:
    if ledger.phase() is RunPhase.SCORING:
        receipts = ledger.receipts()
        left = remaining(units, receipts)
        finished = list(receipts)
        if left:
            ledger.scratch.make()
            finished += _score(ledger, record, units, totals(receipts), workforce, watch, left)
        while again := to_repeat(units, finished):
            finished = _repeat(ledger, record, units, workforce, watch, finished, again)
        check_staged(ledger, finished)
        if not any(receipt.files for receipt in finished):
            empty_output(ledger, record)
        finished.sort(key=lambda receipt: receipt.unit)
        manifest = manifest_of(ledger, record, finished, ended_s=time.time())
    else:
        manifest = read_manifest(ledger)
    publish(ledger, record, manifest)
    retire_old(runs, record.spec.output)
    return manifest


def _repeat(
    ledger: Ledger,
    record: RunRecord,
    units: Sequence[Unit],
    workforce: Workforce,
    watch: Watcher,
    finished: Sequence[Receipt],
    again: Sequence[tuple[Unit, Receipt]],
) -> list[Receipt]:
    """Does the units again that scored a part of a damaged file; all receipts after that."""
    for _, receipt in again:
        ledger.forget_files(receipt)
    repeated = {unit.id for unit, _ in again}
    kept = [receipt for receipt in finished if receipt.unit not in repeated]
    return kept + list(_score(ledger, record, units, totals(kept), workforce, watch, [unit for unit, _ in again]))


def _score(
    ledger: Ledger,
    record: RunRecord,
    units: Sequence[Unit],
    before: Totals,
    workforce: Workforce,
    watch: Watcher,
    left: Sequence[Unit],
) -> Iterator[Receipt]:
    begun: float | None = None
    sums = before
    watch(_progress(units, record.rows, sums, 0, 0.0))
    for receipt in workforce.score(ledger, record, left, workforce.workers(record.spec)):
        sums = sums.plus(receipt)
        if begun is None:  # the start of workers is not the rate of scoring
            begun = time.monotonic() - receipt.seconds
        watch(_progress(units, record.rows, sums, sums.rows - before.rows, time.monotonic() - begun))
        if sums.quarantined > record.spec.max_quarantined:
            raise too_many_bad(sums.quarantined, record.spec.max_quarantined, ledger.quarantine.path)
        yield receipt


def _progress(units: Sequence[Unit], rows: int, sums: Totals, here: int, seconds: float) -> RunProgress:
    rate = here / seconds if here and seconds > 0 else None
    left_s = max(rows - sums.rows, 0) / rate if rate else None
    return RunProgress(len(units), sums.units, rows, sums.rows, sums.quarantined, rate, left_s)
