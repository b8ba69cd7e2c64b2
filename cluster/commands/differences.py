"""What a document would change, field by field. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cluster.access.policy import Access
from cluster.commands.command import Message
from cluster.drift.section import Drift
from cluster.fleet.serving import Serving
from cluster.ports import FeedSpec
from cluster.quality.section import LiveLabels
from cluster.rollout.plan import Plan
from cluster.watch.payloads import Payloads


class FieldChange(Message):
    """One field, in dots, with what it holds now and what it would hold; None where it holds nothing."""

    field: str
    before: Any = None
    after: Any = None


def model_fields(
    serving: Serving | None,
    plan: Plan | None,
    project: str,
    payloads: Payloads | None = None,
    drift: Drift | None = None,
    labels: LiveLabels | None = None,
) -> dict[str, Any]:
    """A Model as plain data."""
    return {
        "serving": serving.model_dump(mode="json") if serving is not None else None,
        "rollout": plan.model_dump(mode="json") if plan is not None else None,
        "payloads": payloads.model_dump(mode="json") if payloads is not None else None,
        "drift": drift.model_dump(mode="json") if drift is not None else None,
        "labels": labels.model_dump(mode="json") if labels is not None else None,
        "project": project or None,
    }


def feed_fields(spec: FeedSpec, project: str) -> dict[str, Any]:
    """A Stream or Batch as plain data."""
    schedule = spec.schedule.model_dump(mode="json") if spec.schedule is not None else None
    return {**json.loads(spec.document), "schedule": schedule, "model": spec.model, "project": project or None}


def access_fields(access: Access) -> dict[str, Any]:
    """The Access document as plain data."""
    return access.model_dump(mode="json", exclude_none=True)


def differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[FieldChange, ...]:
    """The fields that differ, in the documents' order."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return tuple(
        FieldChange(field=field, before=old.get(field), after=new.get(field))
        for field in dict.fromkeys([*old, *new])
        if old.get(field) != new.get(field)
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All but sections: values, and lists of values."""
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        parts = list(enumerate(value))
    else:
        yield path, value
        return
    for name, part in parts:
        yield from _leaves(part, f"{path}.{name}" if path else str(name))
