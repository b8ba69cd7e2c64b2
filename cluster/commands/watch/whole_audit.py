"""The whole audit: its records as they were stored, and its signed checkpoint."""

from __future__ import annotations

from pydantic import Field

from cluster.audit.checkpoint import signed, verifier_key
from cluster.commands.command import CommandEntry, CommandResult, Context, Message, Nothing
from cluster.commands.rights import admins
from cluster.errors import Conflict

MOST_RECORDS = 1000


class RecordsAsked(Message):
    """Records from that number on."""

    first: int = Field(default=0, ge=0)
    limit: int = Field(default=MOST_RECORDS, ge=1, le=MOST_RECORDS)


class AuditRecords(Message):
    """`documents` are consecutive records from `first` on, each the very text that the tree has the hash of."""

    first: int
    documents: tuple[str, ...]


class AuditCheckpoint(Message):
    """`size` is how many records there are, `note` the signed checkpoint of them, and `key` the public key that verifies it."""

    size: int
    note: str
    key: str


def _records(at: Context, request: RecordsAsked) -> CommandResult:
    found = at.records(request.first, request.limit)
    return CommandResult(at.state, AuditRecords(first=request.first, documents=tuple(one.document for one in found)))


def _checkpoint(at: Context, _: Nothing) -> CommandResult:
    by = at.audit_signer
    if by is None:
        raise Conflict("this controller has no key to sign with", where="audit", remedy="start it with `headrace up`")
    head = at.audit_head()
    return CommandResult(at.state, AuditCheckpoint(size=head.size, note=signed(head, by), key=verifier_key(by.name, by.public)))


RECORDS = CommandEntry(
    "audit.list", RecordsAsked, AuditRecords, _records, "The audit of everything, as it was stored", admins, looks=True
)
CHECKPOINT = CommandEntry(
    "checkpoint.show", Nothing, AuditCheckpoint, _checkpoint, "How long the audit is, and its root, signed", admins, looks=True
)
COMMANDS = (RECORDS, CHECKPOINT)
