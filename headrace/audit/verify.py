"""Whether an exported audit is whole: no record changed, removed, inserted or moved, and no signed checkpoint contradicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from cluster.audit.checkpoint import Checkpoint, opened, read_verifier_keys
from cluster.audit.merkle import TreeHead
from cluster.errors import BadArtifact, BadInput, NotFound
from headrace.audit.key import verifies
from headrace.audit.lines import line_of

KEEP = "somebody has changed the files: keep them, and export into another folder to see what the service has"
EDGE = "edge.json"
Seen = Callable[[TreeHead, str], None]


@dataclass(frozen=True, slots=True)
class Verified:
    """How many records are proven, by how many checkpoints. Records after the last checkpoint are `unproven`; those
    before `first` were pruned before this folder was begun."""

    records: int
    checkpoints: int
    unproven: int
    head: TreeHead
    first: int = 0


def _unseen(_: TreeHead, __: str) -> None:
    return


def verify(folder: Path, key: str, others: tuple[Path, ...] = (), seen: Seen = _unseen) -> Verified:
    """Checks all records in the folder against its checkpoints and `others`, by the public key, or by several, one a line.

    `seen` is told of every record, after it was read: its text, and the tree before it. Raises BadArtifact where a record was
    changed, removed, inserted or moved, where the tail is cut off, or where the records contradict a checkpoint; BadInput for a
    wrong key or a file that is none, NotFound where the folder has no audit, or not what a checkpoint is of.
    """
    keys = read_verifier_keys(key)
    notes = [*sorted(folder.glob("checkpoint-*")), *others]
    told: dict[int, list[tuple[Path, Checkpoint]]] = {}
    for file in notes:
        found = opened(_text(file), keys, verifies, str(file))
        told.setdefault(found.size, []).append((file, found))
    if not told:
        raise NotFound("it has no checkpoint", where=str(folder), remedy="name a folder that `headrace audit export` has written")
    head = _began(folder, told)
    first = head.size
    last = _check(told.pop(first, []), head, first)
    for number, document in records(folder):
        if number != head.size:
            what = f"record {number} stands where {head.size} should: one was removed, inserted or moved"
            raise BadArtifact(what, where=str(folder), remedy=KEEP)
        seen(head, document)
        head = head.adding([document.encode()])
        last = _check(told.pop(head.size, []), head, last)
    if told:
        size, ((file, _), *_) = next(iter(sorted(told.items())))
        what = f"{size} records were signed, and {head.size} are here: the tail is cut off"
        raise BadArtifact(what, where=str(file), remedy=KEEP)
    return Verified(last - first, len(notes), head.size - last, head, first)


def records(folder: Path) -> Iterator[tuple[int, str]]:
    """The number and the stored text of every record, in order. Raises BadArtifact where a line is not what its record says."""
    for file in sorted(folder.glob("audit-*.jsonl")):
        for at, line in enumerate(_lines(file), 1):
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


def edge_text(size: int, edge: tuple[str, ...]) -> str:
    """What a folder begins with whose records before that number were pruned."""
    return orjson.dumps({"size": size, "edge": edge}).decode() + "\n"


def _began(folder: Path, told: dict[int, list[tuple[Path, Checkpoint]]]) -> TreeHead:
    """The tree before the folder's first record: that of nothing, or the one in its edge, which a checkpoint must prove."""
    file = folder / EDGE
    if not file.exists():
        return TreeHead()
    try:
        found = orjson.loads(_text(file))
        head = TreeHead(int(found["size"]), tuple(bytes.fromhex(node) for node in found["edge"]))
        whole = len(head.edge) == head.size.bit_count() and all(len(node) == 32 for node in head.edge)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole or head.size not in told:
        raise BadArtifact("no checkpoint proves where this folder begins", where=str(file), remedy=KEEP)
    early = min(told)
    if early < head.size:
        what = f"it is of the first {early} records, and those before {head.size} are not in this folder"
        raise NotFound(what, where=str(told[early][0][0]), remedy="verify the folder that they were exported into before pruning")
    return head


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
        raise _unreadable(file, error) from error


def _lines(file: Path) -> Iterator[str]:
    """Without their ends. What Unicode takes for one may stand within a line of JSON."""
    try:
        with file.open(encoding="utf-8", newline="\n") as reading:
            for line in reading:
                yield line.removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> BadInput:
    return BadInput(f"can't be read: {type(error).__name__}", where=str(file), remedy="check the file and its rights")
