"""Labels as lines of JSON, `{"key": "4/2/7/orders/0/1234", "label": 7}`, and how labels are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from pydantic import ValidationError

from cluster.commands.labels import REASONS_AT_MOST, Label, LabelsTold, TellLabels
from cluster.findings import first_finding
from cluster.quality.taking import number_of

LABELS_AT_ONCE = 5_000


def tell(model: str, lines: Iterable[bytes], send: Callable[[TellLabels], LabelsTold]) -> LabelsTold:
    """Sends every line that is a label, some thousands at a time; what came of all. A bad line never takes others along.

    The same lines again count nothing while the rollout is under way, nor later where the model has a `labels` section: each
    request is named by what it holds. Fewer or more lines are another request.
    """
    return tell_all(model, _of_lines(lines), send)


def tell_all(model: str, labels: Iterable[Label | str], send: Callable[[TellLabels], LabelsTold]) -> LabelsTold:
    """Sends them, where a text says why one could not be read."""
    told, batch, unreadable = LabelsTold(counted=0, elsewhere=0, refused=0), list[Label](), 0
    for one in labels:
        if isinstance(one, Label):
            batch.append(one)
        else:
            told, unreadable = _sum(told, LabelsTold(counted=0, elsewhere=0, refused=1, reasons=(one,))), unreadable + 1
        if len(batch) == LABELS_AT_ONCE:
            told = _sum(told, send(_request(model, batch, unreadable)))
            batch, unreadable = [], 0
    # Where there is nothing else to send, only who reads this learns of what could not be read.
    return _sum(told, send(_request(model, batch, unreadable))) if batch else told


def _of_lines(lines: Iterable[bytes]) -> Iterator[Label | str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label = Label.model_validate_json(line)
        except ValidationError as error:
            found = first_finding(error)
            yield f"line {number}: {found.field} {found.words}"
        else:
            yield label if number_of(label.label) is not None else f"line {number}: label is no number"


def _request(model: str, labels: list[Label], unreadable: int) -> TellLabels:
    digest = hashlib.sha256("\n".join(f"{one.key} {one.label!r}" for one in labels).encode()).hexdigest()
    return TellLabels(model=model, labels=tuple(labels), source=f"lines-{digest[:24]}", unreadable=unreadable)


def _sum(one: LabelsTold, other: LabelsTold) -> LabelsTold:
    return LabelsTold(
        counted=one.counted + other.counted,
        elsewhere=one.elsewhere + other.elsewhere,
        refused=one.refused + other.refused,
        reasons=(*one.reasons, *other.reasons)[:REASONS_AT_MOST],
    )
