"""The one way of every command: its payload is checked, it is run, and what it changed is audited with who asked for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from cluster.access.callers import CLUSTER, Caller
from cluster.audit.refusals import Refusal
from cluster.commands.command import ACTOR_MOST, Command, CommandResult, Context
from cluster.commands.registry import COMMANDS
from cluster.commands.rights import refusal
from cluster.errors import BadInput, Fenced, Forbidden, HeadraceError, NotFound, Unauthenticated, Unreachable
from cluster.findings import first_finding
from cluster.state import AuditEvent, State, feed_key

SOMEBODY = "a person"  # asked, and did not say who it is


def parse(command: str, payload: dict[str, Any]) -> Any:
    """The command's request. Raises NotFound for an unknown command, BadInput for a bad payload."""
    if command not in COMMANDS:
        raise NotFound(f"there is no command {command!r}", where="command", remedy=f"commands: {', '.join(sorted(COMMANDS))}")
    try:
        return COMMANDS[command].request.model_validate(payload)
    except ValidationError as error:
        found = first_finding(error)
        where = f"{command}: {found.field}" if found.field else command
        raise BadInput(found.words, where=where, remedy="correct this field") from error


def actor_of(request: Any, caller: Caller) -> str:
    """Who asks: as the request says where its caller speaks for people, else the caller himself."""
    if not caller.speaks_for:
        return caller.name
    return request.actor if isinstance(request, Command) and request.actor else SOMEBODY


def check(command: str, request: Any, state: State, caller: Caller) -> None:
    """Raises Unauthenticated, Forbidden or NotFound where the caller may not run it."""
    refused = None if caller == CLUSTER else refusal(caller, command, COMMANDS[command].asks(state, request))
    if refused is not None:
        raise refused


def run(command: str, request: Any, at: Context) -> tuple[CommandResult, tuple[AuditEvent, ...]]:
    """What the command comes to, and its audit: what its handler tells; else that it was asked for, where it changed anything.

    Raises Unauthenticated, Forbidden or NotFound where its caller may not run it, and what the command raises.
    """
    entry = COMMANDS[command]
    check(command, request, at.state, at.caller)
    outcome = entry.run(at, request)
    events = outcome.events
    if not events and outcome.state is not at.state and entry.told:
        unseen = {"seen"} if getattr(request, "seen", None) is None else set[str]()
        detail = request.model_dump(mode="json", exclude={"model", "actor"} | unseen)
        events = (AuditEvent(at.now_s, _model_of(outcome.state, request), None, command, at.actor, detail),)
    if at.caller.door:
        events = tuple(replace(event, door=at.caller.door, address=at.caller.address) for event in events)
    return outcome, events


def refusal_of(command: str, payload: dict[str, Any], caller: Caller, state: State, error: HeadraceError) -> Refusal | None:
    """What the audit is told of a command that was refused; None where it is told nothing: what only looks is of interest where
    its caller may not, and what could not be tried was not refused."""
    known = COMMANDS.get(command)
    if isinstance(error, Unreachable | Fenced) or (
        known is not None and known.looks and not isinstance(error, Unauthenticated | Forbidden)
    ):
        return None
    said, model = payload.get("actor"), payload.get("model")
    actor = said[:ACTOR_MOST] if isinstance(said, str) and said else SOMEBODY
    model = model if isinstance(model, str) and model in state.models else ""
    actor = actor if caller.speaks_for else caller.name
    return Refusal(actor, caller.door, caller.address, command if known is not None else "", model, error.kind)


def _model_of(state: State, request: Any) -> str:
    """The model under which it is found in the audit; a feed's is that which it scores with."""
    if hasattr(request, "kind"):
        return state.feeds[feed_key(request.kind, request.name)].spec.model
    return str(getattr(request, "model", ""))
