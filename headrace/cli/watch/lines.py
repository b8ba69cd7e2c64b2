"""The history of a service as a person reads it: a line of blocks for each figure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.commands.watch.history import HistoryView
from headrace.cli.screens.output import age

BLOCKS = "▁▂▃▄▅▆▇█"
COLUMNS = 60


def shown_history(seen: HistoryView, now_s: float | None = None) -> RenderableType:
    """One row a figure: its lowest and highest value, the last, and how it went between. Says so where there is none yet."""
    if len(seen.at_s) < 2 or not seen.lines:
        return Text("no history yet: it is kept in memory, a point each ten seconds, once something is served", "dim")
    begun = age((now_s or time.time()) - seen.at_s[0])
    table = Table("of", "figure", f"since {begun} ago", "lowest", "highest", "now", box=None, pad_edge=False, header_style="bold")
    for line in seen.lines:
        values = [value for value in line.values if value is not None]
        if not values:
            continue
        last = line.values[-1]
        table.add_row(
            f"{line.subject} {line.name}",
            line.figure,
            blocks(line.values),
            number(min(values)),
            number(max(values)),
            "-" if last is None else number(last),
        )
    return Group(table)


def blocks(values: Sequence[float | None], columns: int = COLUMNS) -> str:
    """The values as so many blocks at most, each the highest of its part, from nothing to the highest; a gap where there is none.
    Pure."""
    width = min(columns, len(values))
    known = [value for value in values if value is not None]
    top, low = max(known, default=0.0), min(0.0, min(known, default=0.0))
    drawn = []
    for column in range(width):
        part = values[column * len(values) // width : (column + 1) * len(values) // width]
        seen = [value for value in part if value is not None]
        if not seen:
            drawn.append(" ")
        else:
            share = 0.0 if top == low else (max(seen) - low) / (top - low)
            drawn.append(BLOCKS[round(share * (len(BLOCKS) - 1))])
    return "".join(drawn)


def number(value: float) -> str:
    """Three figures of it, for people."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
