"""Errors to plain data and back, of the same class: for the control API, workers of builds and batches, and `--json`."""

from __future__ import annotations

from typing import Any

from cluster import errors
from cluster.errors import HeadraceError

KINDS: dict[str, type[HeadraceError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, HeadraceError)
}


def to_wire(error: HeadraceError) -> dict[str, str]:
    """The error as JSON data."""
    return {"kind": error.kind, "what": error.what, "where": error.where, "remedy": error.remedy}


def from_wire(data: Any) -> HeadraceError | None:
    """The error that `to_wire` wrote, of its own class; of the tree's root where this Headrace knows no such kind.

    None where `data` is nothing that `to_wire` writes: it may come from anybody.
    """
    if not isinstance(data, dict) or not isinstance(data.get("what"), str):
        return None
    kind = KINDS.get(str(data.get("kind")), HeadraceError)
    return kind(data["what"], where=str(data.get("where") or ""), remedy=str(data.get("remedy") or ""))
