"""The whole audit: its records as they were stored, its signed checkpoint, and what becomes of old records."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from cluster.audit.checkpoint import signed, verifier_key
from cluster.audit.kinds import CHECKPOINT_AWAY, CHECKPOINT_KEPT
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message, Nothing
from cluster.commands.rights import admins, the_clusters
from cluster.errors import BadInput, Conflict
from cluster.state import CONTROLLER, AuditEvent

MOST_RECORDS = 1000
PLACE_MOST = 500
MOST_PRUNED = 100_000  # about a second, in which the controller does nothing else


class RecordsAsked(Message):
    """Records from that number on."""

    first: int = Field(default=0, ge=0)
    limit: int = Field(default=MOST_RECORDS, ge=1, le=MOST_RECORDS)


class AuditRecords(Message):
    """`documents` are consecutive records from `first` on, each the very text that the tree has the hash of."""

    first: int
    documents: tuple[str, ...]


class AuditCheckpoint(Message):
    """`size` is how many records there ever were, `note` their signed checkpoint, and `key` the public key that verifies it.

    Those before `first` were pruned: `edge` is that of their tree, in hex, and `first_note` the signed checkpoint of them.
    """

    size: int
    note: str
    key: str
    first: int = 0
    edge: tuple[str, ...] = ()
    first_note: str = ""


class PruneAudit(Command):
    """Delete the first `size` records, whose tree has that root, in hex: only who has all of them can tell it."""

    size: int = Field(ge=1)
    root: str = Field(pattern=r"^[0-9a-f]{64}$")


class TellCheckpoints(Message):
    """The checkpoint of so many records was sent: these places did not take it, each for that kind of reason; all others did."""

    records: int = Field(ge=0)
    away: dict[Annotated[str, Field(max_length=PLACE_MOST)], Annotated[str, Field(max_length=100)]] = Field(max_length=100)


class AuditPruned(Message):
    """Those before `first` are gone, `records` of them by this command."""

    first: int
    records: int


def _records(at: Context, request: RecordsAsked) -> CommandResult:
    found = at.records(request.first, request.limit)
    return CommandResult(at.state, AuditRecords(first=request.first, documents=tuple(one.document for one in found)))


def _checkpoint(at: Context, _: Nothing) -> CommandResult:
    by = at.audit_signer
    if by is None:
        raise Conflict("this controller has no key to sign with", where="audit", remedy="start it with `headrace up`")
    head, pruned = at.audit_head(), at.audit_pruned()
    told = AuditCheckpoint(
        size=head.size,
        note=signed(head, by),
        key=verifier_key(by.name, by.public),
        first=pruned.size,
        edge=tuple(node.hex() for node in pruned.edge),
        first_note=signed(pruned, by) if pruned.size else "",
    )
    return CommandResult(at.state, told)


def _prune(at: Context, request: PruneAudit) -> CommandResult:
    pruned, whole = at.audit_pruned(), at.audit_head()
    if request.size <= pruned.size:
        return CommandResult(at.state, AuditPruned(first=pruned.size, records=0))
    if request.size > whole.size:
        raise BadInput(f"there are {whole.size} records", where="size", remedy="name no more of them")
    if request.size - pruned.size > MOST_PRUNED:
        remedy = f"prune up to {pruned.size + MOST_PRUNED} first"
        raise BadInput(f"{MOST_PRUNED} records are pruned at a time at most", where="size", remedy=remedy)
    head = pruned
    while head.size < request.size:
        found = at.records(head.size, min(MOST_RECORDS, request.size - head.size))
        if not found:
            what = f"the records from {head.size} on are not in the store any more, and {whole.size} were recorded"
            raise Conflict(what, where="audit", remedy="keep what was exported, and find out who has deleted them")
        head = head.adding(one.document.encode() for one in found)
    if head.root.hex() != request.root:
        what = f"the first {request.size} records here have another root: what was exported is not what is here"
        raise Conflict(what, where="root", remedy="keep both, and find out who has changed them (`headrace audit verify`)")
    gone = request.size - pruned.size
    event = AuditEvent(at.now_s, "", None, "pruned", at.actor, {"records": gone, "before": request.size, "root": request.root})
    return CommandResult(at.state, AuditPruned(first=request.size, records=gone), (event,), prune=head)


def _told(at: Context, request: TellCheckpoints) -> CommandResult:
    """What has changed since the last time is recorded, and remembered."""
    before = at.state.checkpoints_away
    if request.away == before:
        return CommandResult(at.state, Nothing())
    told = [
        (CHECKPOINT_AWAY, {"place": place, "reason": reason})
        for place, reason in request.away.items()
        if before.get(place) != reason
    ] + [(CHECKPOINT_KEPT, {"place": place}) for place in before if place not in request.away]
    events = tuple(
        AuditEvent(at.now_s, "", None, event, CONTROLLER, {**detail, "records": request.records}) for event, detail in told
    )
    return CommandResult(replace(at.state, checkpoints_away=request.away), Nothing(), events)


RECORDS = CommandEntry(
    "audit.list", RecordsAsked, AuditRecords, _records, "The audit of everything, as it was stored", admins, looks=True
)
CHECKPOINT = CommandEntry(
    "checkpoint.show", Nothing, AuditCheckpoint, _checkpoint, "How long the audit is, and its root, signed", admins, looks=True
)
PRUNE = CommandEntry(
    "audit.prune", PruneAudit, AuditPruned, _prune, "Delete the oldest records, which were exported: their root proves it", admins
)
CHECKPOINT_TOLD = CommandEntry(
    "checkpoint.told",
    TellCheckpoints,
    Nothing,
    _told,
    "Which places did not take the audit's checkpoint",
    the_clusters,
    told=False,
)
COMMANDS = (RECORDS, CHECKPOINT, PRUNE, CHECKPOINT_TOLD)
