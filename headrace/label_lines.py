"""Labels as lines of JSON: `{"key": "4/2/7/orders/0/1234", "label": 7}`. What `headrace rollout label` reads and sends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from pydantic import ValidationError

from cluster.commands.labels import REASONS_AT_MOST, Label, LabelsTold, TellLabels
from cluster.findings import first_finding

LABELS_AT_ONCE = 5_000


def tell(model: str, lines: Iterable[bytes], send: Callable[[TellLabels], LabelsTold]) -> LabelsTold:
    """Sends every line that is a label, some thousands at a time; what came of all. A bad line never takes others along.

    The same lines again count nothing while the rollout is under way: each request is named by what it holds. Fewer or more lines
    are another request, and count.
    """
    told = LabelsTold(counted=0, elsewhere=0, refused=0)
    batch: list[Label] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            batch.append(Label.model_validate_json(line))
        except ValidationError as error:
            found = first_finding(error)
            reason = f"line {number}: {found.field} {found.words}"
            told = _sum(told, LabelsTold(counted=0, elsewhere=0, refused=1, reasons=(reason,)))
        if len(batch) == LABELS_AT_ONCE:
            told = _sum(told, send(_request(model, batch)))
            batch = []
    return _sum(told, send(_request(model, batch))) if batch else told


def _request(model: str, labels: list[Label]) -> TellLabels:
    digest = hashlib.sha256("\n".join(f"{one.key} {one.label!r}" for one in labels).encode()).hexdigest()
    return TellLabels(model=model, labels=tuple(labels), source=f"lines-{digest[:24]}")


def _sum(one: LabelsTold, other: LabelsTold) -> LabelsTold:
    return LabelsTold(
        counted=one.counted + other.counted,
        elsewhere=one.elsewhere + other.elsewhere,
        refused=one.refused + other.refused,
        reasons=(*one.reasons, *other.reasons)[:REASONS_AT_MOST],
    )
