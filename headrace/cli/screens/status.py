"""`headrace status` as a person reads it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.commands.feeds import FeedView
from cluster.commands.models import ModelView
from deployments.gateway.door.certificates import utc
from headrace.cli.rollout import shown as shown_rollout
from headrace.cli.screens.output import age
from headrace.cli.screens.summary import counts, wrong
from headrace.local.ray.replaced import ReplacedView
from headrace.local.ray.where import NodeView
from headrace.local.status import DoorView, Overview

REPLACED_MOST = 5
STYLES = {"ready": "green", "running": "green", "alive": "green", "failed": "red", "unhealthy": "red", "dead": "red"}


def shown(seen: Overview) -> RenderableType:
    """What is wrong and how much there is; then addresses, nodes, models, rollouts under way, streams and batches, and logs."""
    now_s = time.time()
    parts: list[RenderableType] = [Text(line, "red") for line in wrong(seen, now_s)] or [Text("nothing is wrong", "green")]
    parts += [Text(counts(seen)), Text(), _addresses(seen)]
    if seen.doors:
        parts += [Text(), _doors(seen.doors)]
    if seen.nodes:
        parts += [Text(), _nodes(seen.nodes)]
    parts += [Text(), _models(seen.models)]
    parts += [Text(f"{model.name}: is being removed: {model.removing}", "yellow") for model in seen.models if model.removing]
    # Where no version serves, the last rollout says why.
    told = [model for model in seen.models if model.rollout and (model.rollout.ended_s is None or model.stable is None)]
    parts += [shown_rollout(model.rollout) for model in told if model.rollout]
    if seen.feeds:
        parts += [Text(), _feeds(seen.feeds)]
    if seen.replaced:
        parts += [Text(), _replaced(seen.replaced, now_s)]
    if seen.logs:
        parts += [Text(), Text(f"logs: {', '.join(seen.logs)}", "dim", overflow="fold")]
    return Group(*parts)


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


def _nodes(nodes: tuple[NodeView, ...]) -> Table:
    table = _table("node", "state", "role", "zone", "resources", "runs")
    for node in nodes:
        counted = {k: v for k, v in node.resources.items() if k in ("CPU", "GPU") or k.startswith("accelerator_type:")}
        resources = ", ".join(f"{name} {amount:g}" for name, amount in sorted(counted.items()))
        runs = ", ".join(app if many == 1 else f"{many} x {app}" for app, many in node.runs.items())
        table.add_row(
            node.address, _word(node.state), "head" if node.is_head else "worker", node.zone or "-", resources, runs or "-"
        )
    return table


def _models(models: tuple[ModelView, ...]) -> RenderableType:
    if not models:
        return Text("no models yet: `headrace build` makes a version, `headrace apply` serves it")
    table = _table("model", "version", "role", "status", "replicas", "")
    for model in models:
        apps = {app.app: app for app in model.apps}
        for version in model.versions:
            app = apps.get(f"{model.name}--v{version.version}")
            if app is None:
                table.add_row(model.name, str(version.version), version.role, "-", "-", "")
                continue
            replicas = f"{app.replicas} of {app.target_replicas}"
            table.add_row(model.name, str(version.version), version.role, _word(app.status), replicas, Text(app.message))
        if not model.versions:
            table.add_row(model.name, "-", "-", "-", "-", "no version yet: `headrace build`")
    return table


def _feeds(feeds: tuple[FeedView, ...]) -> Table:
    table = _table("feed", "name", "model", "wanted", "status", "replicas", "")
    for feed in feeds:
        wanted = "removed" if feed.removing else feed.wanted
        row = (feed.kind, feed.name, feed.model, wanted, _word(feed.status), str(feed.replicas), Text(feed.message))
        table.add_row(*row)
    return table
