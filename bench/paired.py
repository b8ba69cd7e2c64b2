"""Figures of what was measured in turn: the ratio, and within what it can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from rich.console import Console

from bench.figures import Figure

NORMAL_95 = 1.96


def paired(name: str, ours: Sequence[float], reference: Sequence[float], unit: str, screen: Console) -> Figure:
    """The means of both, whose measurements stand side by side. Tells the mean ratio of pairs, on a scale of logarithms, with the
    interval that holds the true one 95 times in 100 (by the normal distribution: for twenty pairs and more)."""
    logs = [math.log(one / other) for one, other in zip(ours, reference, strict=True)]
    middle, apart = statistics.mean(logs), NORMAL_95 * statistics.stdev(logs) / math.sqrt(len(logs))
    low, high = math.exp(middle - apart), math.exp(middle + apart)
    screen.print(f"{name}: {math.exp(middle):.3f} of {len(logs)} pairs, {low:.3f} to {high:.3f} with 95 %")
    return Figure(name, statistics.mean(ours), statistics.mean(reference), unit)
