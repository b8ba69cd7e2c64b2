"""What differs between two route tables: a scorer that has the one is told only that. Pure.

With a thousand models the whole table is half a megabyte, and each step of each rollout makes another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cluster.access.policy import AccessPolicy
from cluster.routing.routes import Route, RouteTable, Stamp, Standing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TableChange:
    """From the table stamped `before` to the one stamped `after`: what is new or other, and the names that are gone. `access` is
    None where it is the same."""

    before: Stamp
    after: Stamp
    routes: Mapping[str, Route]
    models: Mapping[str, Standing]
    unrouted: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    access: AccessPolicy | None = None


def change_between(before: RouteTable, after: RouteTable) -> TableChange:
    """What leads from one to the other."""
    routes, unrouted = _differences(before.routes, after.routes)
    models, unknown = _differences(before.models, after.models)
    access = after.access if _differ(before.access, after.access) else None
    return TableChange(before.stamp, after.stamp, routes, models, unrouted, unknown, access)


def with_change(table: RouteTable, change: TableChange) -> RouteTable | None:
    """The table after the change; None where the change is from another one."""
    if table.stamp != change.before:
        return None
    return RouteTable(
        change.after.number,
        _changed(table.routes, change.routes, change.unrouted),
        _changed(table.models, change.models, change.unknown),
        change.after.fence,
        table.access if change.access is None else change.access,
    )


def _differences(before: Mapping[str, T], after: Mapping[str, T]) -> tuple[dict[str, T], tuple[str, ...]]:
    new = {name: value for name, value in after.items() if name not in before or _differ(before[name], value)}
    return new, tuple(name for name in before if name not in after)


def _differ(one: object, other: object) -> bool:
    return one is not other and one != other


def _changed(values: Mapping[str, T], new: Mapping[str, T], gone: tuple[str, ...]) -> dict[str, T]:
    changed = {**values, **new}
    for name in gone:
        del changed[name]
    return changed
