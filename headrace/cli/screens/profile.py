"""A version's profile as a person reads it: a line a feature, or for wide tensors a summary and the features that vary most."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deployments.profiles.form import CategoryCounts, FeatureKind, Profile, ProfileSummary, TensorProfile
from deployments.profiles.numbers import ABOVE, ARRAYS, BELOW, FIRST, NumberColumns
from headrace.cli.watch.lines import blocks, number

BARS = 16
# A tensor with more features is summed up.
SHOWN_WHOLE = 32
SHOWN_OF_WIDE = 12
SHOWN_CATEGORIES = 6


def shown_profile(model: str, version: int, profile: Profile) -> RenderableType:
    """The whole screen."""
    summary = profile.summary
    few = ": few, so that edges and shares are rough" if summary.few else ""
    parts: list[RenderableType] = [Text(f"{model} version {version}: profile of {summary.rows:,} rows{few}")]
    parts += [Text(line) for line in _remarks(profile)]
    numbers, categories = _numbers_table(), _categories_table()
    for tensor in summary.tensors:
        if tensor.kind is FeatureKind.NUMBERS:
            _add_numbers(numbers, tensor, profile.numbers[tensor.key], summary.rows)
        for name, counts in zip(tensor.feature_names(), tensor.categories, strict=False):  # numbers have none
            categories.add_row(tensor.side, name, *_categories(counts))
    if summary.classes:
        categories.add_row("", "class by score", *_categories(summary.classes))
    return Group(*parts, *(table for table in (numbers, categories) if table.row_count))


def profile_json(profile: Profile) -> dict[str, Any]:
    """The same for scripts: what profile.json says, with a list a field for each tensor of numbers; null where there is none."""
    found: dict[str, Any] = profile.summary.model_dump(mode="json")
    for told, tensor in zip(found["tensors"], profile.summary.tensors, strict=True):
        if tensor.kind is FeatureKind.NUMBERS:
            told["numbers"] = {name: getattr(profile.numbers[tensor.key], name).tolist() for name in ARRAYS}
    return found


def _remarks(profile: Profile) -> list[str]:
    """What the tables do not show: wide tensors as wholes, and what is not in the profile."""
    summary = profile.summary
    said = [
        _wide(tensor, profile.numbers[tensor.key], summary)
        for tensor in summary.tensors
        if tensor.kind is FeatureKind.NUMBERS and tensor.profiled > SHOWN_WHOLE
    ]
    said += [
        f"{tensor.side} {tensor.name}: the first {tensor.profiled:,} of {tensor.features:,} features were looked at"
        for tensor in summary.tensors
        if tensor.profiled < tensor.features
    ]
    if summary.held_out:
        said.append(f"{summary.held_out:,} of its rows were held out: outliers are told by them")
    return [*said, *(f"{name} is left out, as the document says" for name in summary.left_out)]


def _wide(tensor: TensorProfile, columns: NumberColumns, summary: ProfileSummary) -> str:
    constant = int((columns.lowest == columns.highest).sum())
    missing = columns.missing.sum() / (summary.rows * len(columns))
    known = np.isfinite(columns.mean)
    span = (
        f", {number(float(columns.lowest[known].min()))} to {number(float(columns.highest[known].max()))},"
        f" mean {number(float(columns.mean[known].mean()))}"
        if known.any()
        else ""
    )
    return (
        f"{tensor.side} {tensor.name}: {len(columns):,} features, {constant:,} of them constant, {missing:.2%} missing{span};"
        f" below are the {SHOWN_OF_WIDE} that vary most"
    )


def _numbers_table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("feature", no_wrap=True)
    for column in ("rows", "missing", "lowest", "highest", "mean", "std"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("0.1 % to 99.9 %", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("outside", justify="right", no_wrap=True)
    return table


def _add_numbers(table: Table, tensor: TensorProfile, columns: NumberColumns, rows: int) -> None:
    shown = np.arange(len(columns))
    if len(columns) > SHOWN_WHOLE:
        shown = np.argsort(-np.nan_to_num(columns.std), kind="stable")[:SHOWN_OF_WIDE]
    names = tensor.feature_names()
    for feature in shown.tolist():
        counts = columns.counts[feature]
        table.add_row(
            tensor.side,
            names[feature],
            f"{rows:,}",
            _share(int(columns.missing[feature]), rows),
            *(_number(float(getattr(columns, name)[feature])) for name in ("lowest", "highest", "mean", "std")),
            f"{_number(float(columns.lo[feature]))} to {_number(float(columns.hi[feature]))}",
            bars(columns, feature),
            _share(int(counts[BELOW] + counts[ABOVE]), rows),
        )


def bars(columns: NumberColumns, feature: int) -> str:
    """A feature's histogram within its edges, in 16 blocks."""
    inside = columns.counts[feature][FIRST:ABOVE]
    parts = np.add.reduceat(inside, np.arange(BARS) * len(inside) // BARS)
    return blocks(parts.tolist(), BARS)


def _categories_table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("feature", no_wrap=True)
    table.add_column("different", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("most frequent")
    return table


def _categories(counts: CategoryCounts) -> tuple[str, str, str]:
    rows = sum(counts.counts) + counts.other
    first = list(zip(counts.names, counts.counts, strict=True))[:SHOWN_CATEGORIES]
    rest = rows - sum(count for _, count in first)
    # Names are users' data: what a terminal would obey is shown, not obeyed.
    told = [f"{name if name.isprintable() else repr(name)} {_share(count, rows)}" for name, count in first]
    told += [f"others {_share(rest, rows)}"] if rest else []
    distinct = "many" if counts.distinct is None else f"{counts.distinct:,}"
    return distinct, blocks([*counts.counts[:BARS]], BARS), ", ".join(told)


def _share(count: int, rows: int) -> str:
    return f"{100 * count / rows:.3g} %"


def _number(value: float) -> str:
    return number(value) if np.isfinite(value) else "-"
