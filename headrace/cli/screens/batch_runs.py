"""Batches as a person reads them, and as scripts do: runs, how far the one under way is, and how schedules go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from cluster.commands.feeds import FeedView, ScheduleView
from consumers.batch.run import RunProgress, Watcher
from consumers.batch.write.publish import RunManifest
from deployments.gateway.console.batch_runs import BatchRunSeen, Quarantine
from headrace.cli.screens.output import age, answers, notes, print_json


def told_run(seen: BatchRunSeen) -> dict[str, Any]:
    """One run, for scripts. `rows` are those that are scored; `seconds` is None where nobody works on it."""
    ended_s = seen.ended_s if seen.ended_s is not None else time.time() if seen.held else None
    return {
        "run_id": seen.run_id,
        "version": seen.version,
        "started_s": seen.started_s,
        "as_of": seen.as_of,
        "state": "stopped: resume it" if seen.state == "unfinished" else seen.state,
        "units": seen.units,
        "units_done": seen.units_done,
        "rows": seen.rows_done,
        "rows_quarantined": seen.quarantined,
        "seconds": ended_s - seen.started_s if ended_s is not None else None,
    } | ({"rows_per_s": seen.rows_s} if seen.ended_s is not None else {})


def runs_table(title: str, told: Sequence[dict[str, Any]]) -> Table:
    """What `told_run` tells of each."""
    table = Table(title=title, title_justify="left")
    for column in ("run", "version", "state", "units", "rows", "quarantined", "began (UTC)", "took"):
        table.add_column(column, justify="left" if column in ("run", "state") else "right")
    for run in told:
        table.add_row(
            run["run_id"],
            str(run["version"]),
            run["state"],
            f"{run['units_done']}/{run['units']}",
            f"{run['rows']:,}",
            f"{run['rows_quarantined']:,}",
            f"{datetime.fromtimestamp(run['started_s'], UTC):%Y-%m-%d %H:%M:%S}",
            age(run["seconds"]) if run["seconds"] is not None else "-",
        )
    return table


def quarantine_table(title: str, found: Quarantine) -> Table:
    """Why rows could not be scored, the most frequent reason first, each with the first of its rows."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for column in ("rows", "reason", "one of them"):
        table.add_column(column, justify="right" if column == "rows" else "left", overflow="fold")  # a path whole, to its name
    for reason in found.reasons:
        shown = "\n".join(f"{name}: {text}" for name, text in next(iter(reason.samples), {}).items())
        table.add_row(f"{reason.rows:,}", reason.reason, shown or "-")
    hidden = [f"redacted: {', '.join(found.redacted)}"] if found.redacted else []
    hidden += [f"{found.more_columns:,} more columns are not shown"] if found.more_columns else []
    hidden += [f"{found.looked_at:,} of {found.rows:,} rows were looked at"] if found.looked_at < found.rows else []
    table.caption = "; ".join(hidden) or None
    return table


def fires_table(schedule: ScheduleView) -> Table:
    """How its last fires went, and those to come, in its own time."""
    table = Table(title=f"schedule: {schedule.cron} ({schedule.timezone})", title_justify="left")
    for column in ("fire", "state", "tries", "took", "job", "reason"):
        table.add_column(column, justify="right" if column in ("tries", "took") else "left")
    for fire in schedule.fires:
        took = age(fire.ended_s - fire.at_s) if fire.ended_s is not None else "-"
        row = (_local(fire.at_s, schedule.timezone), fire.state, str(fire.attempt + 1), took, fire.job, fire.reason)
        table.add_row(*row)
    for at_s in schedule.next_s:
        table.add_row(_local(at_s, schedule.timezone), "to come", "-", "-", "-", "")
    return table


def next_runs(feed: FeedView) -> str:
    """When it runs next, a line each, or why it does not."""
    if feed.schedule is None:
        return "no schedule"
    if feed.wanted == "paused":
        return "paused"
    return "\n".join(_local(at_s, feed.schedule.timezone) for at_s in feed.schedule.next_s)


@contextmanager
def watching(name: str, *, as_json: bool) -> Iterator[Watcher]:
    """A bar while the block runs, none for scripts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=notes(), disable=as_json) as bar:
        task = bar.add_task(name, total=None, detail="starting workers")

        def watch(seen: RunProgress) -> None:
            bar.update(task, total=seen.rows, completed=seen.rows_done, detail=_detail(seen))

        yield watch


def print_done(manifest: RunManifest, *, as_json: bool) -> None:
    """What a run has published, and what it left out."""
    if as_json:
        print_json(manifest)
        return
    screen = answers()
    screen.print(
        f"{manifest.name}: {manifest.written:,} rows scored by {manifest.model} version {manifest.version}"
        f" in {age(manifest.ended_s - manifest.started_s)}, in {len(manifest.files)} files: {manifest.output}",
        soft_wrap=True,
    )
    if manifest.quarantine:
        screen.print(f"{manifest.quarantined:,} rows quarantined, with their reasons: {manifest.quarantine}", soft_wrap=True)
        screen.print("`headrace batch quarantine` shows some of each reason")
    if manifest.others:
        screen.print(
            f"{manifest.others:,} files beside the data were left alone: spec.input.files says which are data", soft_wrap=True
        )
    if manifest.damaged:
        path, _, reason = manifest.damaged[0]
        more = f", and {len(manifest.damaged) - 1} more files" if len(manifest.damaged) > 1 else ""
        screen.print(f"left out, since it can't be read: {path} ({reason}){more}; all are in the manifest", soft_wrap=True)


def _detail(seen: RunProgress) -> str:
    parts = [f"{seen.rows_done:,} of {seen.rows:,} rows"]
    if seen.rows_per_s is not None:
        parts.append(f"{seen.rows_per_s:,.0f} rows/s")
    if seen.left_s is not None:
        parts.append(f"{age(seen.left_s)} left")
    if seen.quarantined:
        parts.append(f"{seen.quarantined:,} quarantined")
    return ", ".join(parts)


def _local(at_s: float, timezone: str) -> str:
    return f"{datetime.fromtimestamp(at_s, ZoneInfo(timezone)):%Y-%m-%d %H:%M %Z}"
