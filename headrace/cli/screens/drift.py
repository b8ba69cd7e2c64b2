"""Drift as a person reads it: alarms first, then what is farthest off now, each with its bars before and after."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.commands.watch.drift import DriftAlarmView, DriftSizeView, DriftVersionView, DriftView, ModelDriftView
from deployments.profiles.form import FEW_ROWS
from headrace.cli.screens.output import age
from headrace.cli.watch.lines import blocks

BARS = 16
SIZES_SHOWN = 5
ALARMS_SHOWN = 20


def shown_drift(seen: DriftView, now_s: float | None = None) -> RenderableType:
    """The whole screen."""
    now_s = time.time() if now_s is None else now_s
    parts = [part for model in seen.models for part in _model(model, now_s)]
    return Group(*parts) if parts else Text("there are no models", "dim")


def _model(model: ModelDriftView, now_s: float) -> list[RenderableType]:
    count = f"{model.alarmed} {'alarm' if model.alarmed == 1 else 'alarms'}" if model.alarmed else "no alarm"
    parts: list[RenderableType] = [Text(f"{model.model}: {count}", "bold red" if model.alarmed else "bold")]
    if model.alarms:
        parts.append(_alarms(model.alarms[:ALARMS_SHOWN], now_s))
        if model.alarmed > ALARMS_SHOWN:
            parts.append(Text(f"and {model.alarmed - ALARMS_SHOWN} more (--json tells them)", "dim"))
        parts.append(Text(f"`headrace drift clear {model.model}` once they are looked at", "dim"))
    for version in model.versions:
        parts += _version(version, now_s)
    return parts


def _alarms(alarms: Sequence[DriftAlarmView], now_s: float) -> Table:
    table = _table("version", "", "feature", "since", "PSI", "JS", "before", "after")
    table.add_column("", overflow="fold")
    for alarm in alarms:
        size = alarm.size
        words = f"{alarm.words}{'; one of many that are off a little' if alarm.together else ''}"
        since = f"{age(now_s - alarm.since_s)} ago"
        table.add_row(str(alarm.version), size.side, _shown(size.feature), since, *_sizes(size), words)
    return table


def _version(version: DriftVersionView, now_s: float) -> list[RenderableType]:
    if version.since_s is None:
        return [Text(f"version {version.version}: nothing was heard of its rows yet", "dim")]
    if not version.features:
        why = "it has no profile, so its rows are not watched: build it with rows to evaluate on"
        return [Text(f"version {version.version}: {why}")]
    few = ", which are few: only large changes are seen" if version.profile_rows < FEW_ROWS else ""
    about = (
        f"version {version.version}: {version.rows:,} rows looked at in {age(now_s - version.since_s)}, "
        f"{version.features:,} features, beside a profile of {version.profile_rows:,} rows{few}"
    )
    if not version.sizes:
        return [Text(about)]
    table = _table("", "feature", "PSI", "JS", "before", "now")
    for size in version.sizes[:SIZES_SHOWN]:
        table.add_row(size.side, _shown(size.feature), *_sizes(size))
    return [Text(f"{about}; farthest off now:"), table]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _sizes(size: DriftSizeView) -> tuple[str, str, str, str]:
    return f"{size.psi:.3f}", f"{size.js:.3f}", blocks(size.before, BARS), blocks(size.after, BARS)


def _shown(name: str) -> str:
    # Names are users' data: what a terminal would obey is shown, not obeyed.
    return name if name.isprintable() else repr(name)
