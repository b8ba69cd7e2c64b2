"""`headrace status` as a person reads it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.commands.feeds import FeedView
from cluster.commands.models import ModelView
from cluster.versions import VersionId
from deployments.gateway.door.certificates import utc
from headrace.cli.screens.output import age
from headrace.cli.screens.rollout import shown as shown_rollout
from headrace.cli.screens.summary import counts, rests, wrong
from headrace.local.ray.replaced import ReplacedView
from headrace.local.ray.where import NodeView
from headrace.local.status import DoorView, Overview

REPLACED_MOST = 5
ROWS_MOST = 100  # of versions, of feeds, and of what is wrong: more than that nobody reads
APPS_MOST = 10  # of those that run on one node
SEVERAL = {"model that rests": "models that rest", "version of others": "versions of others", "idle version": "idle versions"}
STYLES = {"ready": "green", "running": "green", "alive": "green", "failed": "red", "unhealthy": "red", "dead": "red"}


def shown(seen: Overview, *, everything: bool = False) -> RenderableType:
    """What is wrong and how much there is; then addresses, nodes, models, rollouts under way, streams and batches, and logs.

    Where there are more than can be read, models that rest are counted alone, unless `everything` is wanted.
    """
    now_s = time.time()
    most = sys.maxsize if everything else ROWS_MOST
    troubles = wrong(seen, now_s)
    parts: list[RenderableType] = [Text(line, "red") for line in troubles[:most]] or [Text("nothing is wrong", "green")]
    parts += _more(len(troubles) - most, "more of what is wrong")
    parts += [Text(counts(seen)), Text(), _addresses(seen)]
    if seen.doors:
        parts += [Text(), _doors(seen.doors)]
    if seen.nodes:
        parts += [Text(), _nodes(seen.nodes, everything=everything)]
    parts += [Text(), *_models(seen.models, most)]
    parts += [Text(f"{model.name}: is being removed: {model.removing}", "yellow") for model in seen.models if model.removing]
    # Where no version serves, the last rollout says why.
    told = [model for model in seen.models if model.rollout and (model.rollout.ended_s is None or model.stable is None)]
    parts += [shown_rollout(model.rollout) for model in told[:most] if model.rollout]
    parts += _more(len(told) - most, "more of the rollouts")
    if seen.feeds:
        parts += [Text(), _feeds(seen.feeds[:most]), *_more(len(seen.feeds) - most, "more of the feeds")]
    if seen.replaced:
        parts += [Text(), _replaced(seen.replaced, now_s)]
    if seen.logs:
        parts += [Text(), Text(f"logs: {', '.join(seen.logs)}", "dim", overflow="fold")]
    return Group(*parts)


@dataclass(frozen=True, slots=True)
class _Row:
    """A version of a model."""

    model: str
    version: str = "-"
    role: str = "-"
    status: str = "-"
    replicas: str = "-"
    message: str = ""


def _not_shown(parts: Iterable[str]) -> Text:
    return Text(f"not shown: {', '.join(parts)}; `headrace status --all` shows all", "dim")


def _more(number: int, words: str) -> list[RenderableType]:
    return [_not_shown([f"{number} {words}"])] if number > 0 else []


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _word(status: str) -> Text:
    return Text(status, STYLES.get(status, "yellow"))


def _addresses(seen: Overview) -> Table:
    table = _table("address", "")
    for name, address in seen.addresses.model_dump().items():
        if address:
            table.add_row(name, address)
        if address and name == "http":
            table.add_row("console", f"{address}/console/")
    return table


def _doors(doors: tuple[DoorView, ...]) -> Table:
    table = _table("door", "gRPC", "state", "gateways", "certificate until")
    for door in doors:
        ends = "-" if door.certificate_ends_s is None else utc(datetime.fromtimestamp(door.certificate_ends_s, UTC))
        table.add_row(door.http, door.grpc or "-", _word("open" if door.is_open else "closed"), str(door.gateways), ends)
    return table


def _replaced(replaced: tuple[ReplacedView, ...], now_s: float) -> Table:
    table = _table("ended by itself", "pid", "ago", "why")
    for one in replaced[-REPLACED_MOST:]:
        table.add_row(one.app, str(one.pid), age(now_s - one.ended_s), Text(one.why))
    return table


def _nodes(nodes: tuple[NodeView, ...], *, everything: bool) -> Table:
    table = _table("node", "state", "role", "zone", "resources", "runs")
    for node in nodes:
        counted = {k: v for k, v in node.resources.items() if k in ("CPU", "GPU") or k.startswith("accelerator_type:")}
        resources = ", ".join(f"{name} {amount:g}" for name, amount in sorted(counted.items()))
        apps = [app if many == 1 else f"{many} x {app}" for app, many in node.runs.items()]
        if len(apps) > APPS_MOST and not everything:
            apps[APPS_MOST:] = [f"{len(apps) - APPS_MOST} apps more"]
        runs = ", ".join(apps)
        table.add_row(
            node.address, _word(node.state), "head" if node.is_head else "worker", node.zone or "-", resources, runs or "-"
        )
    return table


def _models(models: tuple[ModelView, ...], most: int) -> Iterator[RenderableType]:
    """Each version a row. Of more than `most`, idle ones are counted alone, and then models that rest."""
    if not models:
        yield Text("no models yet: `headrace build` makes a version, `headrace apply` serves it")
        return
    rows = {model.name: _rows(model) for model in models}
    if sum(map(len, rows.values())) <= most:
        yield _model_table(row for told in rows.values() for row in told)
        return
    used = {name: [row for row in told if row.status != "-" or row.role != "idle"] or told[-1:] for name, told in rows.items()}
    names = list(used) if sum(map(len, used.values())) <= most else [model.name for model in models if not rests(model)]
    told = [row for name in names for row in used[name]]
    if told:
        yield _model_table(told[:most])
    left = {
        "model that rests": len(models) - len(names),
        "version of others": max(len(told) - most, 0),
        "idle version": sum(len(rows[name]) - len(used[name]) for name in rows),
    }
    yield _not_shown(f"{number} {words if number == 1 else SEVERAL[words]}" for words, number in left.items() if number)


def _rows(model: ModelView) -> list[_Row]:
    apps = {app.app: app for app in model.apps}
    rows = []
    for version in model.versions:
        app = apps.get(VersionId(model.name, version.version).app)
        if app is None:
            rows.append(_Row(model.name, str(version.version), version.role))
        else:
            replicas = f"{app.replicas} of {app.target_replicas}"
            rows.append(_Row(model.name, str(version.version), version.role, app.status, replicas, app.message))
    return rows or [_Row(model.name, message="no version yet: `headrace build`")]


def _model_table(rows: Iterable[_Row]) -> Table:
    table = _table("model", "version", "role", "status", "replicas", "")
    for row in rows:
        status = _word(row.status) if row.status != "-" else row.status
        table.add_row(row.model, row.version, row.role, status, row.replicas, Text(row.message))
    return table


def _feeds(feeds: tuple[FeedView, ...]) -> Table:
    table = _table("feed", "name", "model", "wanted", "status", "replicas", "")
    for feed in feeds:
        wanted = "removed" if feed.removing else feed.wanted
        row = (feed.kind, feed.name, feed.model, wanted, _word(feed.status), str(feed.replicas), Text(feed.message))
        table.add_row(*row)
    return table
