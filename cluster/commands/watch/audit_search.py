"""The audit over all models, searched from its end backwards: for who may see each model, and no more than a part at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.audit import AuditView
from cluster.commands.command import CommandEntry, CommandResult, Context, Message
from cluster.commands.rights import anybodys
from cluster.store.port import AuditRecord

LOOKED_AT_MOST = 5000
READ_AT_A_TIME = 500  # nothing else is decided meanwhile, and most searches end within the newest
FOUND_MOST = 200


class SearchAudit(Message):
    """Events that hold all of these words somewhere (who, what, why, of which model), in any case; of one `model` where one is
    named. Events from the number `before` on are left out: so a search goes on where another stopped."""

    words: str = Field(default="", max_length=200)
    model: str = Field(default="", max_length=200)
    before: int | None = Field(default=None, ge=0)
    limit: int = Field(default=FOUND_MOST, ge=1, le=FOUND_MOST)


class FoundEvent(AuditView):
    """One event, with its number in the whole audit. By which `door` it was asked for and from which `address` is told to
    admins alone."""

    number: int
    door: str = ""
    address: str = ""


class AuditFound(Message):
    """What was found, newest first. All from the number `looked_from` on was looked at; 0: everything that is kept. At
    `since_s` (Unix) the oldest of these happened that one may see."""

    events: tuple[FoundEvent, ...]
    looked_from: int
    since_s: float | None


def _search(at: Context, asked: SearchAudit) -> CommandResult:
    size = at.audit_head().size
    end = size if asked.before is None else min(asked.before, size)
    kept_from = at.audit_pruned().size
    first = max(end - LOOKED_AT_MOST, kept_from)
    words = asked.words.lower().split()
    found: list[FoundEvent] = []
    looked_from, since_s = first, None
    for record in _backwards(at, first, end):
        event = json.loads(record.document)
        if not at.caller.is_admin:
            event |= {"door": "", "address": ""}
        if asked.model not in ("", event["model"]) or not _sees(at, event["model"]):
            continue
        since_s = float(event["at_s"])
        # What a page shows of an event: names as they stand there, not JSON's own signs.
        shown = " ".join((*map(str, _leaves(event)), event["event"].replace("_", " "))).lower() if words else ""
        if all(word in shown for word in words):
            found.append(FoundEvent(number=record.number, **event))
            if len(found) == asked.limit:
                looked_from = record.number
                break
    looked_from = 0 if looked_from <= kept_from else looked_from
    return CommandResult(at.state, AuditFound(events=tuple(found), looked_from=looked_from, since_s=since_s))


def _backwards(at: Context, first: int, end: int) -> Iterator[AuditRecord]:
    while end > first:
        begin = max(end - READ_AT_A_TIME, first)
        yield from reversed(at.records(begin, end - begin))
        end = begin


def _sees(at: Context, model: str) -> bool:
    """What is of no model, such as keys, is for admins."""
    return at.caller.may(Role.VIEW, model) if model else at.caller.is_admin


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for name, each in value.items() for leaf in (name, *_leaves(each))]
    if isinstance(value, list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


SEARCH = CommandEntry(
    "audit.search", SearchAudit, AuditFound, _search, "The audit over all models that one may see", anybodys, looks=True
)
COMMANDS = (SEARCH,)
