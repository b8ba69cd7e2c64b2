"""A build's report as a table."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from deployments.builder.page import profile_words, unmeasured
from deployments.builder.report import Report, Variant

QUALITY = {"accuracy": "accuracy", "cross_entropy": "x-entropy", "mse": "MSE", "agreement": "agreement"}


def report_table(report: Report) -> Table:
    """One row a variant: size, speed against the imported model, quality, and what became of it."""
    measured = [one.quality for one in report.variants if one.quality]
    shown = [name for name in QUALITY if any(getattr(quality, name) is not None for quality in measured)]
    table = Table(
        title=f"{report.model}: parity with the source {report.parity:.2g}, {report.data['rows']} rows, {report.took_s:.0f} s",
        caption=profile_words(report) or None,
        box=SIMPLE_HEAD,
    )
    table.add_column("variant", no_wrap=True)
    for column in ("kB", "at 1/64/1024", *(QUALITY[name] for name in shown)):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for one in report.variants:
        skipped = one.skipped and f"skipped: {one.skipped}"
        table.add_row(
            *_cells(one, shown), "chosen" if one.name == report.chosen else skipped or "; ".join(one.broken + unmeasured(one))
        )
    return table


def _cells(one: Variant, shown: list[str]) -> list[str]:
    if one.skipped or one.quality is None:
        return [one.name, *[""] * (2 + len(shown))]
    numbers = [getattr(one.quality, name) for name in shown]
    return [
        one.name,
        f"{one.size_bytes / 1000:.0f}",
        " ".join(f"{one.speed[batch].speedup:.1f}x" if batch in one.speed else "-" for batch in ("1", "64", "1024")),
        *("-" if number is None else f"{number:.4f}" for number in numbers),
    ]
