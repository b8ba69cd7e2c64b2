"""Whether an exported audit is whole: no record changed, removed, inserted or moved, and no signed checkpoint contradicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from cluster.audit.checkpoint import Checkpoint, opened, read_verifier_key
from cluster.audit.merkle import TreeHead
from cluster.errors import BadArtifact, BadInput, NotFound
from headrace.audit.key import verifies
from headrace.audit.lines import line_of

KEEP = "somebody has changed the files: keep them, and export into another folder to see what the service has"


@dataclass(frozen=True, slots=True)
class Verified:
    """How many records are proven, by how many checkpoints. Records after the last checkpoint are `unproven`."""

    records: int
    checkpoints: int
    unproven: int
    head: TreeHead


def verify(folder: Path, key: str, others: tuple[Path, ...] = ()) -> Verified:
    """Checks all records in the folder against its checkpoints and `others`, by the public key.

    Raises BadArtifact where a record was changed, removed, inserted or moved, where the tail is cut off, or where the records
    contradict a checkpoint; BadInput for a wrong key or a file that is none, NotFound where the folder has no audit.
    """
    name, public = read_verifier_key(key)
    notes = [*sorted(folder.glob("checkpoint-*")), *others]
    told: dict[int, list[tuple[Path, Checkpoint]]] = {}
    for file in notes:
        found = opened(_text(file), name, public, partial(verifies, public), str(file))
        told.setdefault(found.size, []).append((file, found))
    if not told:
        raise NotFound("it has no checkpoint", where=str(folder), remedy="name a folder that `headrace audit export` has written")
    head, last = TreeHead(), 0
    last = _check(told.pop(0, []), head, last)
    for number, document in records(folder):
        if number != head.size:
            what = f"record {number} stands where {head.size} should: one was removed, inserted or moved"
            raise BadArtifact(what, where=str(folder), remedy=KEEP)
        head = head.adding([document.encode()])
        last = _check(told.pop(head.size, []), head, last)
    if told:
        size, ((file, _), *_) = next(iter(sorted(told.items())))
        what = f"{size} records were signed, and {head.size} are here: the tail is cut off"
        raise BadArtifact(what, where=str(file), remedy=KEEP)
    return Verified(last, len(notes), head.size - last, head)


def records(folder: Path) -> Iterator[tuple[int, str]]:
    """The number and the stored text of every record, in order. Raises BadArtifact where a line is not what its record says."""
    for file in sorted(folder.glob("audit-*.jsonl")):
        for at, line in enumerate(_text(file).splitlines(), 1):
            where = f"{file}:{at}"
            try:
                told = orjson.loads(line)
                number, document = int(told["metadata"]["sequence"]), str(told["raw_data"])
                again = line_of(number, document)
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                raise BadArtifact("this is no record of an audit", where=where, remedy=KEEP) from None
            if line != again:
                raise BadArtifact(f"record {number} was changed: it does not say what was stored", where=where, remedy=KEEP)
            yield number, document


def _check(checkpoints: list[tuple[Path, Checkpoint]], head: TreeHead, last: int) -> int:
    for file, told in checkpoints:
        if told.root != head.root:
            what = f"a record among those from {last} to {head.size - 1} was changed: they are not what was signed"
            raise BadArtifact(what, where=str(file), remedy=KEEP)
    return head.size if checkpoints else last


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"can't be read: {type(error).__name__}", where=str(file), remedy="check the file and its rights"
        ) from error
