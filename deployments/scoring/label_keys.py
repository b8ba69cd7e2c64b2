"""Gives out label keys with the answers that labels may judge later. Pure, but for what is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.routing.routes import LabelledOutput
from cluster.watch.catalogue import CONFIDENCE, LABEL_KEYS
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters
from deployments.profiles.confidence import confidence, confidence_counts
from deployments.scoring.rows import Part

SURE_ROWS = 256  # of one call, at most twice that are looked at


def label_keys(
    wanted: LabelledOutput, outputs: Mapping[str, Array], parts: Sequence[Part], rows: int, answered_s: float | None = None
) -> list[str]:
    """A key a row, as cluster.rollout.labels reads them, but for the prediction at its end, which the caller knows.

    `answered_s` is when they are answered, in Unix time: keys tell it, where it is given. Empty where the answer is no fair
    sample of its version, or there is none.
    """
    keys = [""] * rows
    output = outputs.get(wanted.name)
    if output is None:
        return keys
    answers = _answers(output, by_class=wanted.by_class)
    if answers is None:
        return keys
    when = "" if answered_s is None else f"@{int(answered_s)}"
    for part in parts:
        if part.fair:
            for place, row in enumerate(part.rows.tolist()):
                if place not in part.answer.failed:
                    keys[row] = f"{wanted.rollout}/{part.version}/{answers[row]:.9g}{when}"
    return keys


def keys_by_version(keys: Sequence[str], parts: Sequence[Part]) -> dict[int, int]:
    """How many keys went out with answers of each version; none of one that is not judged."""
    counts: dict[int, int] = {}
    if any(keys):
        for part in parts:
            if part.fair:
                counts[part.version] = counts.get(part.version, 0) + len(part.rows) - len(part.answer.failed)
    return counts


def count_labelled(
    meters: Meters,
    model: str,
    wanted: LabelledOutput,
    keys: Sequence[str],
    outputs: Mapping[str, Array],
    parts: Sequence[Part],
) -> None:
    """Counts the keys that go out, and how sure versions are of a sample of their answers."""
    for number, count in keys_by_version(keys, parts).items():
        meters.add(LABEL_KEYS, count, model, str(number))
    scores = outputs.get(wanted.scores)
    if scores is None:
        return
    for part in parts:
        if part.fair and len(part.rows) and not part.answer.failed:
            sure = confidence(scores[part.rows[:: len(part.rows) // SURE_ROWS + 1]])
            if sure is not None:
                meters.observe_counts(CONFIDENCE, confidence_counts(sure), float(sure.sum()), model, str(part.version))


def _answers(output: Array, *, by_class: bool) -> list[float] | None:
    """A number a row: its class, or the number that it holds; None where rows hold neither."""
    flat = output.reshape(len(output), -1)
    if output.dtype == np.object_ or flat.shape[1] == 0:
        return None
    if by_class and np.issubdtype(output.dtype, np.floating) and flat.shape[1] > 1:
        classes: list[float] = np.argmax(flat, axis=1).tolist()
        return classes
    if flat.shape[1] != 1:
        return None
    values = np.rint(flat[:, 0]) if by_class else flat[:, 0]
    numbers: list[float] = values.astype(np.float64).tolist()
    return numbers
