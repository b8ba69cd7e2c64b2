"""Brings the audit into a folder: what is not there yet, and a signed checkpoint of all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.audit.merkle import TreeHead
from cluster.commands.watch.whole_audit import AuditCheckpoint, AuditRecords
from headrace.audit.lines import line_of
from headrace.audit.verify import verify


class AuditSource(Protocol):
    """Where an audit is asked for."""

    def audit_records(self, first: int) -> AuditRecords:
        """Some records from that number on; none at the end."""

    def audit_checkpoint(self) -> AuditCheckpoint:
        """The newest checkpoint."""


@dataclass(frozen=True, slots=True)
class Exported:
    """`added` records came to those that were there; `records` are there now, and `key` verifies them."""

    added: int
    records: int
    key: str


def export(source: AuditSource, folder: Path) -> Exported:
    """Whatever is in the folder is verified first, by the service's key: so a history that was rewritten since is found.

    Every file is whole or not there. Raises as `verify`, and Unreachable.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    newest = source.audit_checkpoint()
    began = verify(folder, newest.key).head if any(folder.glob("checkpoint-*")) else TreeHead()
    lines, first = list[str](), began.size
    while first + len(lines) < newest.size:
        found = source.audit_records(first + len(lines)).documents[: newest.size - first - len(lines)]
        if not found:
            break  # fewer than were signed: verifying tells
        lines += [line_of(first + len(lines) + at, document) for at, document in enumerate(found)]
    if lines:
        _write(folder / f"audit-{first:012d}.jsonl", "".join(f"{line}\n" for line in lines))
    _write(folder / f"checkpoint-{newest.size:012d}", newest.note)
    verify(folder, newest.key)
    return Exported(len(lines), newest.size, newest.key)


def _write(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    with part.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    part.replace(file)
