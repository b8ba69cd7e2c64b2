"""How right a model's versions are, as a person reads it."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.commands.labels import REASONS
from cluster.commands.watch.quality import QualityView, VersionQualityView
from cluster.quality.section import LiveLabels
from cluster.rollout.checks.labels import Loss
from headrace.cli.screens.output import age


def shown_quality(seen: QualityView) -> RenderableType:
    """Versions and alarms as a person reads them."""
    wanted = seen.labels
    if wanted is None:
        return Text(f"{seen.model} takes no labels: say `labels: {{output: NAME}}` in its document")
    alarms = [Text(line, "red") for one in seen.versions if (line := alarm_told(one, wanted))]
    misfits = [Text(f"version {one.version}: {one.misfit}", "yellow") for one in seen.versions if one.misfit]
    faults = [Text(f"{count} labels {REASONS.get(fault, 'were told before')}") for fault, count in seen.faults.items() if count]
    return Group(*alarms, *misfits, _table(seen, wanted), *faults)


def alarm_told(one: VersionQualityView, wanted: LiveLabels) -> str:
    """What is proven, in a line; empty where nothing is."""
    if one.alarm is None:
        return ""
    alarm = one.alarm
    until = f"{datetime.fromtimestamp(alarm.at_s, UTC):%Y-%m-%d %H:%M} UTC"
    seen = f"{wanted.loss.told(alarm.loss)} of {alarm.labelled:,} labels until {until}"
    allowed = f"{wanted.loss.told(alarm.built)} at build, {wanted.loss.told(alarm.limit)} allowed"
    return f"version {one.version} is proven worse than at build: {seen}, {allowed}"


def _table(seen: QualityView, wanted: LiveLabels) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "version",
        "role",
        "labels",
        "live",
        "95 %",
        "at build",
        "alarm beyond",
        "labelled",
        "came within",
        "estimate",
    ):
        table.add_column(column)
    for one in seen.versions:
        table.add_row(
            str(one.version),
            one.role,
            f"{one.labelled:,}",
            "-" if one.loss is None else wanted.loss.told(one.loss),
            "-" if one.loss is None else _between(one, wanted),
            "not known" if one.built is None else f"{wanted.loss.told(one.built)} of {one.built_rows:,}",
            "-" if one.limit is None else wanted.loss.told(one.limit),
            "-" if one.share is None else f"{one.share:.1%} of {one.keys:,}",
            "-" if one.delay_p50_s is None else f"{age(one.delay_p50_s)} (half), {age(one.delay_p90_s or 0)} (9 of 10)",
            "-" if one.estimate is None else f"{wanted.loss.told(one.estimate)} by confidence of {one.estimate_of:,}",
        )
    return table


def _between(one: VersionQualityView, wanted: LiveLabels) -> str:
    if wanted.loss is Loss.WRONG:
        return f"{1 - one.high:.1%} to {1 - one.low:.1%}"
    return f"{one.low:.4f} to {one.high:.4f}"
