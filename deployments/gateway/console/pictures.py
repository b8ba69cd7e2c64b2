"""The picture that consoles show, as rows of JSON, and what changed from one to the next. Pure.

A row is about a model, or about none; who may not view the model does not get it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from cluster.access.callers import EVERY_MODEL, Caller, Role
from deployments.gateway.console.nodes import NodeSeen

QUIET_S = 15.0  # a controller with nothing to do looks every other second


@dataclass(frozen=True, slots=True)
class PictureRow:
    """One thing in the picture, as JSON; empty where it is gone. `model` is whose it is; "" for what is everybody's, None for
    what only those get who may view every model."""

    model: str | None
    data: bytes


PictureRows = Mapping[str, PictureRow]


@dataclass(frozen=True, slots=True)
class PictureChange:
    """What is other in the picture of that number than in the one before, by key."""

    revision: int
    rows: PictureRows


@dataclass(frozen=True, slots=True)
class House:
    """How those stand that tell all this. The controller is away, or has not looked, since then (Unix); `why` in words."""

    release: str
    table: int = 0
    away_s: float | None = None
    quiet_s: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One look: what the controller told (a Glance, as plain data), and the nodes."""

    glance: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[NodeSeen, ...] = ()


def rows_of(seen: Sighting, house: House) -> dict[str, PictureRow]:
    """The whole picture, by key: `house`, `model/NAME`, `stream/NAME`, `batch/NAME`, `node/ID`."""
    rows = {"house": PictureRow("", orjson.dumps(asdict(house)))}
    for model in seen.glance.get("models", ()):
        rows[f"model/{model['name']}"] = PictureRow(model["name"], orjson.dumps(model))
    for feed in seen.glance.get("feeds", ()):
        rows[f"{feed['kind']}/{feed['name']}"] = PictureRow(feed["model"], orjson.dumps(feed))
    for node in seen.nodes:
        rows[f"node/{node.id}"] = PictureRow(None, orjson.dumps(asdict(node)))
    return rows


def quiet_since(tick_s: float, now_s: float) -> float | None:
    """Since when the controller has not looked; None where it looks as often as it should."""
    return tick_s if tick_s and now_s - tick_s > QUIET_S else None


def difference(before: PictureRows, after: PictureRows) -> dict[str, PictureRow]:
    """The rows that are other or new, and empty ones for those that are gone."""
    found = {key: row for key, row in after.items() if before.get(key) != row}
    return found | {key: PictureRow(before[key].model, b"") for key in before.keys() - after.keys()}


def merged(changes: Iterable[PictureChange]) -> dict[str, PictureRow]:
    """Several changes as one, oldest first."""
    found: dict[str, PictureRow] = {}
    for change in changes:
        found |= change.rows
    return found


def views_all(caller: Caller) -> bool:
    """Whether no model is kept from him."""
    return any(Role.VIEW in grant.roles and EVERY_MODEL in grant.models for grant in caller.grants)


def visible(rows: PictureRows, caller: Caller) -> PictureRows:
    """Those rows that he may see."""
    if views_all(caller):
        return rows
    his = {key: row for key, row in rows.items() if row.model is not None}
    return {key: row for key, row in his.items() if not row.model or caller.may(Role.VIEW, row.model)}


def event(name: str, event_id: str, rows: PictureRows, now_s: float) -> bytes:
    """A server-sent event: the rows, and the keys of those that are gone."""
    gone = orjson.dumps([key for key, row in rows.items() if not row.data])
    told = b",".join(orjson.dumps(key) + b":" + row.data for key, row in rows.items() if row.data)
    return b'id: %b\nevent: %b\ndata: {"now_s":%d,"gone":%b,"rows":{%b}}\n\n' % (
        event_id.encode(),
        name.encode(),
        int(now_s),
        gone,
        told,
    )
