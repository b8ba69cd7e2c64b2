"""Brings the audit into a folder: what is not there yet, and a signed checkpoint of all of it. And prunes what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import orjson

from cluster.audit.checkpoint import opened, read_verifier_keys
from cluster.audit.merkle import TreeHead
from cluster.commands.watch.whole_audit import MOST_PRUNED, AuditCheckpoint, AuditPruned, AuditRecords, PruneAudit
from cluster.errors import BadArtifact, BadInput
from headrace.audit.key import verifies
from headrace.audit.lines import line_of
from headrace.audit.verify import EDGE, KEEP, edge_text, verify


class AuditSource(Protocol):
    """Where an audit is asked for."""

    def audit_records(self, first: int) -> AuditRecords:
        """Some records from that number on; none at the end."""

    def audit_checkpoint(self) -> AuditCheckpoint:
        """The newest checkpoint."""


class AuditPruner(AuditSource, Protocol):
    """One that also deletes old records."""

    def prune_audit(self, request: PruneAudit) -> AuditPruned:
        """Deletes the first ones. Raises Conflict where the root is another than theirs."""


@dataclass(frozen=True, slots=True)
class Exported:
    """`added` records came to those that were there; there are `records` now in all, and `key` verifies them."""

    added: int
    records: int
    key: str


@dataclass(slots=True)
class _Old:
    """The tree over all records from before a time, as far as none that is younger stands among them, in pieces."""

    before_s: float
    heads: list[TreeHead]
    over: bool = False

    def seen(self, head: TreeHead, document: str) -> None:
        """`head` is the tree before that record."""
        if not self.over and head.size % MOST_PRUNED == 0 and head.size:
            self.heads.append(head)
        if not self.over and orjson.loads(document)["at_s"] >= self.before_s:
            self.heads.append(head)
            self.over = True


def export(source: AuditSource, folder: Path, known: str = "") -> Exported:
    """Whatever is in the folder is verified first, by the service's key, and others that are `known`, one a line: so a history
    that was rewritten since is found. What comes is compared with its checkpoint before it is kept.

    Every file is whole or not there. Raises as `verify`, and Unreachable.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    newest = source.audit_checkpoint()
    keys = f"{newest.key}\n{known}"
    if any(folder.glob("checkpoint-*")):
        head = verify(folder, keys).head
        if head.size < newest.first:
            what = f"it has the records before {head.size}, and those before {newest.first} were pruned"
            raise BadInput(what, where=str(folder), remedy="export into a new folder, and keep this one")
    else:
        head = _begin(folder, newest)
    began = head.size
    if began < newest.size:
        with _whole(folder / f"audit-{began:012d}.jsonl") as written:
            while head.size < newest.size:
                found = source.audit_records(head.size).documents[: newest.size - head.size]
                if not found:
                    break
                written.writelines(f"{line_of(head.size + at, document)}\n" for at, document in enumerate(found))
                head = head.adding(document.encode() for document in found)
            _compare(newest, head, folder)
    else:
        _compare(newest, head, folder)
    _write(folder / f"checkpoint-{newest.size:012d}", newest.note)
    return Exported(head.size - began, newest.size, newest.key)


def prune(source: AuditPruner, folder: Path, before_s: float, known: str = "") -> int:
    """How many records from before that time (Unix) are gone now. They are exported, and the folder is verified, first."""
    exported, old = export(source, folder, known), _Old(before_s, [])
    found = verify(folder, f"{exported.key}\n{known}", seen=old.seen)
    if not old.over:
        old.heads.append(found.head)
    return sum(
        source.prune_audit(PruneAudit(size=head.size, root=head.root.hex())).records for head in old.heads if head.size > 0
    )


def _compare(newest: AuditCheckpoint, head: TreeHead, folder: Path) -> None:
    """Raises BadArtifact where the records, here and told, are not those that the service has signed."""
    signed = opened(newest.note, read_verifier_keys(newest.key), verifies, "the service")
    if signed.size != head.size:
        what = f"the service has signed {signed.size} records, and {head.size} are here and told by it: some are gone"
        raise BadArtifact(what, where=str(folder), remedy=KEEP)
    if signed.root != head.root:
        what = "the records, here and told by the service now, are not what was signed: one was changed since"
        raise BadArtifact(what, where=str(folder), remedy=KEEP)


def _begin(folder: Path, newest: AuditCheckpoint) -> TreeHead:
    """The tree before the first record that there is, kept with its checkpoint where some were pruned."""
    if newest.first == 0:
        return TreeHead()
    _write(folder / EDGE, edge_text(newest.first, newest.edge))
    _write(folder / f"checkpoint-{newest.first:012d}", newest.first_note)
    return verify(folder, newest.key).head


def _write(file: Path, text: str) -> None:
    with _whole(file) as opened_file:
        opened_file.write(text)


@contextmanager
def _whole(file: Path) -> Iterator[TextIO]:
    """The file as it is written: there is all of it once the block has ended well, and nothing before."""
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("w", encoding="utf-8") as writing:
            yield writing
            writing.flush()
            os.fsync(writing.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
