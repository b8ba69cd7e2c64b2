"""What happened to a model: its rollouts, and each thing that somebody or some check did."""

from __future__ import annotations

from typing import Any

from cluster.access.callers import Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message, ModelName
from cluster.commands.known import known_model
from cluster.commands.rights import of_model
from cluster.commands.rollouts import RolloutView, rollout_view
from cluster.state import AuditEvent


class AuditView(Message):
    """One transition: who or which check made it, when, and from which evidence."""

    at_s: float
    model: str
    rollout: int | None
    event: str
    actor: str
    detail: dict[str, Any]


class RolloutHistory(Message):
    """All rollouts of a model, newest first, and their audit, oldest first."""

    rollouts: tuple[RolloutView, ...]
    audit: tuple[AuditView, ...]


def audit_view(event: AuditEvent) -> AuditView:
    """One audit event."""
    return AuditView(
        at_s=event.at_s, model=event.model, rollout=event.rollout, event=event.event, actor=event.actor, detail=event.detail
    )


def _history(at: Context, request: ModelName) -> CommandResult:
    # What is of no model, such as keys, is for admins.
    told = at.audit(request.model) if request.model or at.caller.is_admin else []
    if not told:  # of a model that was removed it stays
        known_model(at, request.model)
    rollouts = sorted((r for r in at.state.rollouts.values() if r.model == request.model), key=lambda r: -r.id)
    return CommandResult(
        at.state,
        RolloutHistory(
            rollouts=tuple(rollout_view(at.state, rollout) for rollout in rollouts),
            audit=tuple(audit_view(event) for event in told),
        ),
    )


HISTORY = CommandEntry(
    "rollout.history",
    ModelName,
    RolloutHistory,
    _history,
    "All rollouts of a model, and its audit",
    of_model(Role.VIEW),
    looks=True,
)
COMMANDS = (HISTORY,)
