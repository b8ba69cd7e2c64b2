"""`headrace apply -f FILE`: makes what the project files say so, and waits until it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.text import Text

from cluster.commands.documents import Applied, Apply, Change
from cluster.commands.feeds import FeedView
from cluster.commands.models import ModelView
from cluster.commands.status import StatusView
from cluster.errors import EngineFailure, NoCapacity
from cluster.ports import AppStatus
from cluster.versions import VersionId
from headrace.cli.exits import ExitCode
from headrace.cli.screens.output import AsJson, answers, notes, print_json
from headrace.client import ControlClient
from headrace.project.documents import load_project

app = typer.Typer()

POLL_S = 0.3
WOULD_BE = {
    "created": "would be created",
    "updated": "would be updated",
    "unchanged": "unchanged",
    "removed": "would be removed",
}


@app.command()
def apply(
    files: Annotated[list[Path], typer.Option("--file", "-f", help="A project file, or a folder of them; may be given again.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is ready.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="How long to wait, in seconds.")] = 180.0,
    check: Annotated[bool, typer.Option("--check", help="Only check the files; needs nothing running.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what is of this Project and has no document.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change, field by field.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make Models, Streams and Batches as the files say: all of them, or none. Applying again changes nothing.

    A Model's newest version is served, or rolled out by the plan in its `rollout` section; a Stream starts; a Batch waits for
    `headrace batch run`. With --prune, what belongs to the folder's Project and is in none of the files is removed as `headrace
    delete` does it; artifacts stay. A Model's build section is not looked at: `headrace build` is.

    Example: `headrace apply -f model.yaml -f stream.yaml`; a whole folder: `headrace apply -f project --prune --dry-run`
    """
    documents = load_project(files).apply(prune=prune, dry_run=dry_run)
    if check:
        found = [*((("model", m.name)) for m in documents.models), *((f.kind, f.name) for f in documents.feeds)]
        _report(as_json, Applied(changes=()), [f"{kind} {name}: correct" for kind, name in found])
        return
    with ControlClient.from_environment() as client:
        applied = client.apply(documents)
        _report(as_json, applied, changes_told(applied) if dry_run else map(_line, applied.changes))
        if wait and not dry_run:
            _wait(client, documents, applied, timeout_s)


@app.command()
def diff(
    files: Annotated[list[Path], typer.Option("--file", "-f", help="A project file, or a folder of them; may be given again.")],
    prune: Annotated[bool, typer.Option("--prune", help="Also tell what --prune would remove.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what `headrace apply` would change, field by field: what it is now, and what it would be. Changes nothing.

    The exit code is 0 where nothing would change, 1 where something would. A Model's build section is not looked at.

    Example: `headrace diff -f project`
    """
    with ControlClient.from_environment() as client:
        applied = client.apply(load_project(files).apply(prune=prune, dry_run=True))
    different = Applied(changes=tuple(change for change in applied.changes if change.action != "unchanged"))
    _report(as_json, different, changes_told(different))
    if different.changes:
        raise typer.Exit(ExitCode.FAILED)


def changes_told(applied: Applied) -> Iterator[str]:
    """A line for each change, and under it one for each field."""
    for change in applied.changes:
        yield f"{change.kind} {change.name}: {WOULD_BE[change.action]}" + (f" ({change.note})" if change.note else "")
        for field in change.fields:
            yield f"  {field.field}: {_value(field.before)} -> {_value(field.after)}"


def _value(value: Any) -> str:
    return "nothing" if value is None else orjson.dumps(value).decode()


def _report(as_json: bool, applied: Applied, lines: Iterable[str]) -> None:
    if as_json:
        print_json(applied)
    else:
        for line in lines:
            answers().print(line)


def _line(change: Change) -> str:
    return f"{change.kind} {change.name}: {change.action}" + (f" ({change.note})" if change.note else "")


def _wait(client: ControlClient, documents: Apply, applied: Applied, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with notes().status("waiting") as spinner:
        while waiting := _left(client.status(), documents, applied):
            if time.monotonic() > deadline:
                raise NoCapacity(
                    f"not ready after {timeout_s:g} s: {'; '.join(waiting)}",
                    where="apply",
                    remedy="it goes on without you: follow it with `headrace status --watch`",
                )
            spinner.update(Text("waiting: " + "; ".join(waiting)))
            time.sleep(POLL_S)  # the gateway has no call that waits for a change


def _left(status: StatusView, documents: Apply, applied: Applied) -> list[str]:
    removed = {(change.kind, change.name) for change in applied.changes if change.action == "removed"}
    going = [(f"{feed.kind} {feed.name}", feed.removing) for feed in status.feeds if (feed.kind, feed.name) in removed]
    going += [(f"model {model.name}", model.removing) for model in status.models if ("model", model.name) in removed]
    return unready(status, documents) + [f"{what} is being removed: {why}" for what, why in going if why]


def unready(status: StatusView, documents: Apply) -> list[str]:
    """What is still to come, in words. Raises EngineFailure where it will not come by itself, once all else is there."""
    models = {view.name: view for view in status.models}
    feeds = {(view.kind, view.name): view for view in status.feeds}
    looks: list[Callable[[], str]] = [partial(_model, models.get(document.name), document.name) for document in documents.models]
    looks += [partial(_feed, feeds.get((one.kind, one.name)), one.name) for one in documents.feeds if one.kind == "stream"]
    waiting, failed = list[str](), list[EngineFailure]()
    for look in looks:
        try:
            waiting.append(look())
        except EngineFailure as error:  # it keeps no other from being waited for
            failed.append(error)
    waiting = [words for words in waiting if words]
    if failed and not waiting:
        raise failed[0] if len(failed) == 1 else _all_of(failed)
    return [*waiting, *(f"{error.where} {error.what}" for error in failed)]


def _all_of(failed: list[EngineFailure]) -> EngineFailure:
    told = "; ".join(f"{error.where} {error.what}" for error in failed)
    return EngineFailure(told, where="apply", remedy="what each lacks; `headrace status` shows what is tried again")


def _model(view: ModelView | None, name: str) -> str:
    if view is None:
        return f"model {name} is not known yet"
    if not view.versions:
        return ""  # nothing to serve until its first `headrace build`
    waits = _waits(view)
    if waits:
        return waits
    for app_view in view.apps:
        if app_view.status == AppStatus.FAILED:
            raise EngineFailure(
                f"does not start: {app_view.message or 'no reason given'}",
                where=app_view.app,
                remedy=_remedy(view, app_view.app),
            )
    if view.stable is None:
        _refuse_given_up(view)
        return f"model {name}: first version is starting"
    starting = [app_view for app_view in view.apps if app_view.status == AppStatus.STARTING]
    return "; ".join(f"{one.app}: {one.replicas} of {one.target_replicas} replicas" for one in starting)


def _waits(view: ModelView) -> str:
    """Why its rollout waits for what is no fault of the version, such as its files; empty where it does not."""
    rollout = view.rollout
    if rollout is None or rollout.waits_since_s is None:
        return ""
    return f"{view.name} version {rollout.candidate}: {rollout.reason}"


def _remedy(view: ModelView, app: str) -> str:
    look = "look at its replica in the Ray dashboard"
    if view.stable is None:
        return look
    if app == VersionId(view.name, view.stable).app:
        return f"mend the cause; it is tried again by itself, as `headrace status` tells: {look}"
    return f"{look}; the stable version goes on serving"


def _refuse_given_up(view: ModelView) -> None:
    """Raises EngineFailure where no version serves, and the newest has failed to: it is not tried again by itself."""
    rollout = view.rollout
    if rollout is None or rollout.ended_s is None or rollout.candidate != max(one.version for one in view.versions):
        return
    raise EngineFailure(
        f"its rollout ended, {rollout.state}: {rollout.reason}",
        where=f"{view.name} version {rollout.candidate}",
        remedy=f"mend the cause, then `headrace rollout start {view.name}`, or build another version",
    )


def _feed(view: FeedView | None, name: str) -> str:
    if view is None:
        return f"stream {name} is not known yet"
    if view.status == AppStatus.FAILED:
        raise EngineFailure(
            f"does not start: {view.message or 'no reason given'}",
            where=f"stream {name}",
            remedy="mend the cause; it is tried again by itself, as `headrace status` tells, and its replica's log says more",
        )
    if view.wanted == "paused" or view.status == AppStatus.READY:
        return ""
    return f"stream {name}: {view.message or view.status}"
