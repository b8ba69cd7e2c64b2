"""What a bench says: ours beside a reference. Imports no Ray, which reads its variables as it is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.table import Table

from headrace.cli.screens.output import answers


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the answer. `ratio` is value over reference."""

    name: str
    value: float
    reference: float
    unit: str

    @property
    def ratio(self) -> float:
        return self.value / self.reference


def show(figures: list[Figure], *, as_json: bool) -> None:
    """The table, or a line a figure."""
    if as_json:
        for figure in figures:
            line = {"name": figure.name, "value": figure.value, "reference": figure.reference}
            print(json.dumps(line | {"ratio": figure.ratio, "unit": figure.unit}))
        return
    table = Table()
    for column in ("figure", "ours", "reference", "ratio", "unit"):
        table.add_column(column, justify="left" if column in ("figure", "unit") else "right")
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:,.1f}", f"{figure.reference:,.1f}", f"{figure.ratio:.2f}", figure.unit)
    answers().print(table)
