"""A rollout as a person reads it."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.text import Text

from cluster.commands.rollouts import CheckView, RolloutView
from headrace.cli.screens.output import age

STYLES = {"promoted": "green", "rolled_back": "red", "paused": "yellow", "superseded": "dim"}
VERDICTS = {"passed": "green", "failed": "red", "waiting": "yellow"}


def shown(rollout: RolloutView) -> RenderableType:
    """One rollout as a person reads it."""
    head = Text.assemble(
        f"{rollout.model}: version {rollout.stable or '-'} -> {rollout.candidate}  ",
        (rollout.state, STYLES.get(rollout.state, "cyan")),
        f"  step {rollout.step} of {rollout.steps}, {rollout.weight:g} % of traffic",
        f", {rollout.shadow:g} % in shadow" if rollout.shadow else "",
        f"  {age((rollout.ended_s or time.time()) - rollout.started_s)}",
    )
    parts: list[RenderableType] = [head]
    if rollout.reason:
        parts.append(Text(f"  {rollout.reason}"))
    if rollout.preflight:
        parts.append(Text(f"  preflight: {rollout.preflight}"))
    parts.extend(_check(check) for check in rollout.checks)
    return Group(*parts)


def _check(check: CheckView) -> Text:
    interval = f"  [{check.low:+.4f}, {check.high:+.4f}] against {check.margin:g}, of {check.observed}"
    words = check.words.removesuffix(check.verdict)
    return Text.assemble(f"  {words}", (check.verdict, VERDICTS[check.verdict]), (interval, "dim"))
