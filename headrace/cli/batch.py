"""`headrace batch`: scores Parquet datasets in bulk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cluster.commands.feeds import FeedName, FeedView, ScheduleView
from cluster.commands.watch.by_hand import HandAct
from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, HeadraceError, NotFound
from consumers.batch.batch_meter import BatchMeter
from consumers.batch.run import Workforce, begin, resume
from consumers.batch.runs_seen import quarantine_of, run_seen
from consumers.batch.spec import BatchSpec, ScoringPlace
from consumers.batch.traced import traced
from consumers.batch.write.lock import is_held
from consumers.batch.write.records import Pinned
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import explaining, locate
from headrace.by_hand import recorded
from headrace.cli.screens.batch_runs import (
    fires_table,
    next_runs,
    print_done,
    quarantine_table,
    runs_table,
    told_run,
    watching,
)
from headrace.cli.screens.output import AsJson, answers, print_json, remark
from headrace.client import ControlClient
from headrace.local.home import read_settings
from headrace.local.ray.connection import joined_ray
from headrace.local.ray.job import submit_command
from headrace.local.run_state import load_run
from headrace.project.documents import load_project

app = typer.Typer(help="Score Parquet datasets in bulk.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(help="An applied Batch, or a project file that holds one.")]


@app.command("run")
def run_command(
    target: Target,
    version: Annotated[
        int | None, typer.Option(min=1, help="Pin this version; else the document's, else the stable one.")
    ] = None,
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The date that {as_of} in the input stands for.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Give up a run that was left unfinished.")] = False,
    or_resume: Annotated[bool, typer.Option("--or-resume", help="Go on with a run that was left unfinished.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Let the cluster run it; return at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score the whole dataset once and publish the result.

    The version is pinned for the whole run. Readers of the output see the earlier run until this one is complete. Killed at any
    point, `headrace batch resume` goes on with what is not done.

    Example: `headrace batch run digits --as-of 2026-11-23`
    """
    if fresh and or_resume:
        raise BadInput("--fresh and --or-resume exclude each other", remedy="give one of them")
    with ControlClient.from_environment() as control:
        name, spec = _find(target, control)
        if detach:
            options = [*(["--version", str(version)] if version else []), *(["--as-of", f"{as_of:%Y-%m-%d}"] if as_of else [])]
            options += [*(["--fresh"] if fresh else []), *(["--or-resume"] if or_resume else [])]
            _detach(str(Path(target).absolute()) if _is_file(target) else name, name, options, as_json=as_json)
            return
        if or_resume and RunHistory(locate(spec.output.path)).unfinished():
            _resume(name, spec, as_json=as_json)
            return
        pinned = Pinned.of(control.resolve_version(spec.model, version or spec.version))
    day: date | None = as_of.date() if as_of else None
    with (
        recorded(HandAct.BATCH, remark, model=spec.model, versions=(pinned.version,), name=name) as act,
        watching(name, as_json=as_json) as watch,
        _on_ray() as (workforce, plane),
        _meter(plane, name, spec, pinned) as meter,
    ):
        manifest = begin(name, spec, pinned, workforce, as_of=day, fresh=fresh, watch=meter.watching(watch))
        act.came_to(rows=manifest.rows, to=manifest.run_id)
    print_done(manifest, as_json=as_json)


@app.command("resume")
def resume_command(target: Target, as_json: AsJson = False) -> None:
    """Go on with a run that was stopped: finished units are kept, the version stays the one it began with.

    Example: `headrace batch resume digits`
    """
    with ControlClient.from_environment() as control:
        name, spec = _find(target, control)
    _resume(name, spec, as_json=as_json)


@app.command("status")
def status_command(target: Target, as_json: AsJson = False) -> None:
    """Show the runs of a batch: how far the last one is, what the earlier ones published, and how its schedule went.

    Example: `headrace batch status digits`
    """
    with ControlClient.from_environment() as control:
        name, spec = _find(target, control)
        feed = None if _is_file(target) else control.feed(FeedName(kind="batch", name=name))
    schedule, asked = (feed.schedule, _by_hand(feed)) if feed is not None else (None, [])
    told = _told_runs(spec)
    if as_json:
        print_json(
            {
                "name": name,
                "output": spec.output.path,
                **(told[-1] if told else {"state": "never run"}),
                "runs": told,
                "by_hand": asked,
            }
            | _as_json(schedule)
        )
        return
    table = runs_table(f"{name}: {spec.output.path}", told)
    answers().print(table if told else f"{name}: no run yet; begin one with `headrace batch run {name}`")
    if schedule is not None:
        answers().print(fires_table(schedule))
    for fire in asked:
        began = datetime.fromtimestamp(fire["at_s"], UTC)
        answers().print(f"{fire['by']} asked for it at {began:%Y-%m-%d %H:%M:%S} UTC: {fire['state']} {fire['reason']}".rstrip())


@app.command("quarantine")
def quarantine_command(
    target: Target,
    run: Annotated[str, typer.Option("--run", help="That run's rows; the newest one's where left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show why a run quarantined rows, with a few rows of each reason.

    Inputs that the model's `payloads.redact` named when the run began are left out. What is encrypted (`output.encrypt`) is shown
    where HEADRACE_KEYS names its key. Who looks stands in the audit.

    Example: `headrace batch quarantine digits`
    """
    with ControlClient.from_environment() as control:
        name, spec = _find(target, control)
    with explaining(spec.output.path):
        runs = RunHistory(locate(spec.output.path)).all()
    if not runs:
        raise NotFound("no run yet", where=name, remedy=f"begin one with `headrace batch run {target}`")
    run_id = run or runs[-1].run_id
    with recorded(HandAct.QUARANTINE, remark, model=spec.model, name=name, to=run_id) as act:
        found = quarantine_of(spec, run_id)
        act.came_to(rows=sum(len(reason.samples) for reason in found.reasons))
    if as_json:
        print_json({"name": name, "run_id": run_id, **asdict(found)})
    elif found.rows:
        answers().print(quarantine_table(f"{name}: quarantined by {run_id}", found))
    else:
        answers().print(f"{name}: nothing was quarantined by {run_id}, or it is not kept any more")


@app.command("ls")
def list_command(as_json: AsJson = False) -> None:
    """List the applied batches, their last runs, and when they run next.

    Example: `headrace batch ls`
    """
    with ControlClient.from_environment() as control:
        feeds = [feed for feed in control.feeds() if feed.kind == "batch"]
    told: list[dict[str, Any]] = []
    table = Table()
    for column in ("batch", "model", "output", "last run", "state", "next runs"):
        table.add_column(column)
    for feed in feeds:
        spec, runs, trouble = BatchSpec.model_validate(feed.spec), list[dict[str, Any]](), ""
        try:
            runs = _told_runs(spec, newest=True)
        except HeadraceError as error:  # an output that is away hides no other batch
            trouble = str(error)
        last = runs[-1] if runs else None
        told.append(
            {"name": feed.name, "model": feed.model, "output": spec.output.path, "wanted": feed.wanted, "last": last}
            | ({"trouble": trouble} if trouble else {})
            | _as_json(feed.schedule)
        )
        shown = (last["run_id"], last["state"]) if last else ("-", trouble or "never run")
        table.add_row(feed.name, feed.model, spec.output.path, *shown, next_runs(feed))
    if as_json:
        print_json({"batches": told})
        return
    answers().print(table if told else "no batch is applied")


@app.command("cancel")
def cancel_command(name: Annotated[str, typer.Argument(help="An applied Batch.")], as_json: AsJson = False) -> None:
    """End the run that the cluster has under way by itself: by the schedule, or because somebody asked for it in the console.

    Units that are done are kept: `headrace batch resume` goes on. What a terminal began ends there.

    Example: `headrace batch cancel digits`
    """
    with ControlClient.from_environment() as control:
        feed = control.cancel_batch(name)
    if as_json:
        print_json({"name": name, "by_hand": _by_hand(feed)} | _as_json(feed.schedule))
    else:
        answers().print(f"{name}: its run is being ended")


@app.command("pause")
def pause_command(name: Annotated[str, typer.Argument(help="An applied Batch.")], as_json: AsJson = False) -> None:
    """Let the schedule of a batch rest. A run that is under way goes on.

    Example: `headrace batch pause digits`
    """
    _want(name, ControlClient.pause_feed, as_json=as_json)


@app.command("unpause")
def unpause_command(name: Annotated[str, typer.Argument(help="An applied Batch.")], as_json: AsJson = False) -> None:
    """Let the schedule of a batch go on from now; what it left out meanwhile is not made up for.

    Example: `headrace batch unpause digits`
    """
    _want(name, ControlClient.resume_feed, as_json=as_json)


def _told_runs(spec: BatchSpec, *, newest: bool = False) -> list[dict[str, Any]]:
    """What its runs came to, oldest first, or the `newest` alone. Raises BadInput, Unreachable."""
    runs = RunHistory(locate(spec.output.path))
    with explaining(spec.output.path):
        ledgers = runs.all()[-1:] if newest else runs.all()
        held = bool(is_held(runs.home))
        return [told_run(run_seen(run, held=held and run is ledgers[-1])) for run in ledgers]


def _want(name: str, tell: Callable[[ControlClient, FeedName], FeedView], *, as_json: bool) -> None:
    with ControlClient.from_environment() as control:
        feed = tell(control, FeedName(kind="batch", name=name))
    if as_json:
        print_json({"name": name, "wanted": feed.wanted} | _as_json(feed.schedule))
    else:
        answers().print(f"{name}: {next_runs(feed)}")


def _as_json(schedule: ScheduleView | None) -> dict[str, Any]:
    return {"schedule": schedule.model_dump(mode="json") if schedule is not None else None}


def _by_hand(feed: FeedView) -> list[dict[str, Any]]:
    return [fire.model_dump(mode="json") for fire in feed.by_hand]


def _resume(name: str, spec: BatchSpec, *, as_json: bool) -> None:
    with ExitStack() as open_ones:
        act = open_ones.enter_context(recorded(HandAct.BATCH, remark, model=spec.model, name=name))
        watch = open_ones.enter_context(watching(name, as_json=as_json))
        workforce, control = open_ones.enter_context(_on_ray())
        left = RunHistory(locate(spec.output.path)).unfinished()
        if left is not None:  # else it is told below that there is none
            begun = left.record()
            watch = open_ones.enter_context(_meter(control, name, begun.spec, begun.pinned)).watching(watch)
        manifest = resume(name, spec.output.path, workforce, watch=watch)
        act.came_to(rows=manifest.rows, to=manifest.run_id)
    print_done(manifest, as_json=as_json)


def _detach(target: str, name: str, options: Sequence[str], *, as_json: bool) -> None:
    job = f"batch-{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    where = submit_command(read_settings(), ["batch", "run", target, *options, "--json"], job=job)
    if as_json:
        print_json({"name": name, "job": job, "dashboard": where})
    else:
        answers().print(
            f"{name}: running as job {job}; follow it with `headrace batch status {name}` or at {where}", soft_wrap=True
        )


def _find(target: str, control: ControlClient) -> tuple[str, BatchSpec]:
    if not _is_file(target):
        try:
            return target, BatchSpec.model_validate(control.feed(FeedName(kind="batch", name=target)).spec)
        except NotFound as error:
            if not Path(target).is_dir():
                raise
            raise NotFound(error.what, where=error.where, remedy=f"for the folder of that name, write ./{target}") from error
    batches = [feed for feed in load_project([Path(target)]).feeds if feed.document.kind == "batch"]
    if len(batches) != 1 or not isinstance(batches[0].spec, BatchSpec):
        names = ", ".join(one.document.name for one in batches) or "none"
        raise BadInput(
            f"needs exactly one Batch, holds: {names}", where=target, remedy="apply it, then run the batch by its name"
        )
    return batches[0].document.name, batches[0].spec


def _is_file(target: str) -> bool:
    """A bare word names an applied batch, whatever lies in this folder: a folder is told by a slash."""
    return Path(target).suffix in (".yaml", ".yml") or (("/" in target or target in (".", "..")) and Path(target).is_dir())


@contextmanager
def _on_ray() -> Iterator[tuple[Workforce, ControlPlane]]:
    # Ray's C++ core prints a note about each worker pool, whatever Python's logging says.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    settings = read_settings()
    with joined_ray(settings):
        # Ray reads its variables when it is imported, and the block above has just set them.
        from consumers.batch.score.pool import ray_workforce
        from deployments.control.client import connect

        run = load_run(settings.home)
        options = run.options if run is not None else None
        with traced(ray_workforce(), options.trace_settings if options is not None else None) as workforce:
            yield workforce, connect()


def _meter(control: ControlPlane, name: str, spec: BatchSpec, pinned: Pinned) -> BatchMeter:
    return BatchMeter(control, name, pinned.model, pinned.version, remote=spec.scoring is ScoringPlace.REMOTE)
