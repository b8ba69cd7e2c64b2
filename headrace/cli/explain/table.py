"""An explanation as a person reads it on a terminal, and as scripts do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deployments.engines.datatypes import Array
from deployments.explain.form import Explanation
from deployments.explain.page import baseline_words, changes, target_words, value_words
from deployments.explain.strongest import feature_count, strongest_first
from deployments.scoring.nonfinite import spoken

BAR = 16
# Of the largest part: smaller errors are not shown.
ROUNDING = 1e-5


def shown_explanation(one: Explanation, row: Mapping[str, Array], top: int) -> RenderableType:
    """The strongest `top` features; `row` holds each input in a row's shape."""
    shown = [part for part in strongest_first(one, row, top) if part.worth or part.error]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("feature", no_wrap=True)
    table.add_column("value", no_wrap=True, max_width=32)
    table.add_column("part", justify="right", no_wrap=True)
    table.add_column("±", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    far = max((abs(part.worth) for part in shown), default=0.0) or 1.0
    for part in shown:
        length = max(1, round(BAR * abs(part.worth) / far))
        bar = Text("█" * length, style="red" if part.worth > 0 else "blue")
        value = "" if part.value is None else value_words(part.value)
        table.add_row(part.feature, value, f"{part.worth:+.4g}", f"{part.error:.2g}" if part.error > far * ROUNDING else "", bar)
    lines = [
        Text(f"{target_words(one)}: {one.answer:.4g}, baseline {one.baseline:.4g}, {baseline_words(one)}"),
        Text(f"by {one.method}, {one.evaluations:,} evaluations, completeness error {one.completeness_error:.2g}", style="dim"),
    ]
    if one.too_rough:
        lines.append(Text(f"not to be relied on: {one.why}", style="yellow"))
    if one.changed:
        lines.append(Text(f"it would be another class with {changes(one, top)}"))
    left = feature_count(one) - len(shown)
    return Group(*lines, table, *([Text(f"{left:,} weaker features are not shown", style="dim")] if left else []))


def explanation_json(one: Explanation) -> dict[str, Any]:
    """All of it, arrays as nested lists."""
    return {
        "method": one.method,
        "output": one.output,
        "class": one.label,
        "scale": one.scale,
        "baseline": one.baseline,
        "answer": one.answer,
        "attributions": {name: spoken(value) for name, value in one.attributions.items()},
        "errors": {name: spoken(value) for name, value in one.errors.items()},
        "groups": {name: {"value": value, "error": error} for name, (value, error) in one.groups.items()},
        "evaluations": one.evaluations,
        "background_rows": one.background_rows,
        "completeness_error": one.completeness_error,
        "too_rough": one.too_rough,
        "why": one.why,
        "changed": list(one.changed),
    }
