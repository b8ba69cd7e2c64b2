"""An exported audit: what was signed is proven, and whatever was done to it since is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.audit.checkpoint import opened, read_verifier_key, verifier_key
from cluster.commands.watch.whole_audit import AuditCheckpoint, AuditPruned, AuditRecords, PruneAudit
from cluster.errors import BadArtifact, BadInput, Conflict, NotFound
from headrace.audit.export import export
from headrace.audit.key import audit_signer, verifies
from headrace.audit.verify import verify
from headrace.cli.main import main
from tests.support.brain import Brain


class Source:
    """The audit of a controller in this process, some records at a time."""

    def __init__(self) -> None:
        self.brain = Brain()
        self.brain.serve_first()

    def act(self, times: int) -> None:
        for number in range(times):
            self.brain.call("key.create", name=f"k{number}-{self.size}", id=f"{self.size:010d}", digest="0" * 64)

    @property
    def size(self) -> int:
        return self.audit_checkpoint().size

    def audit_records(self, first: int) -> AuditRecords:
        return AuditRecords.model_validate(self.brain.call("audit.list", first=first, limit=7))

    def prune_audit(self, request: PruneAudit) -> AuditPruned:
        return AuditPruned.model_validate(self.brain.call("audit.prune", **request.model_dump(mode="json")))

    def audit_checkpoint(self) -> AuditCheckpoint:
        return AuditCheckpoint.model_validate(self.brain.call("checkpoint.show"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three exports into one folder, and the key."""
    source, folder = Source(), tmp_path_factory.mktemp("audit") / "export"
    for times in (10, 0, 12):
        source.act(times)
        key = export(source, folder).key
    return folder, key


@pytest.fixture
def folder(told: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(told[0], tmp_path / "copy"))


def test_all_of_it_is_proven(told: tuple[Path, str]) -> None:
    folder, key = told
    found = verify(folder, key)
    assert (found.unproven, found.records, found.checkpoints) == (0, found.head.size, 2)
    assert found.records >= 24
    assert len(list(folder.glob("audit-*.jsonl"))) == 2


def test_names_with_what_unicode_takes_for_a_lines_end_are_proven_too(tmp_path: Path) -> None:
    source = Source()
    for number, end in enumerate(("\u2028", "\u2029", "\x85", "\x0b", "\r", "\n")):
        source.brain.call("key.create", name=f"k{number}", id=f"{number:010d}", digest="0" * 64, actor=f"Ada{end}Byron")
    exported = export(source, tmp_path)
    found = verify(tmp_path, exported.key)
    assert (found.unproven, found.records) == (0, exported.records)


def line(folder: Path, number: int, change: Callable[[list[str], int], None]) -> None:
    """Changes the lines of the file that has the record of that number."""
    for file in sorted(folder.glob("audit-*.jsonl")):
        lines = file.read_text().splitlines(keepends=True)
        if number < len(lines):
            change(lines, number)
            file.write_text("".join(lines))
            return
        number -= len(lines)


def swap(lines: list[str], at: int) -> None:
    lines[at], lines[at + 1] = lines[at + 1], lines[at]


def twice(lines: list[str], at: int) -> None:
    lines.insert(at, lines[at])


def renamed(lines: list[str], at: int) -> None:
    lines[at] = lines[at].replace(json.loads(lines[at])["actor"]["user"]["name"], "nobody")


def shown_otherwise(lines: list[str], at: int) -> None:
    lines[at] = lines[at].replace('"status_id":1', '"status_id":2')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines, at: lines.pop(at), "record 6 stands where 5 should"),
        (twice, "record 5 stands where 6 should"),
        (swap, "record 6 stands where 5 should"),
        (shown_otherwise, "record 5 was changed"),
        (renamed, "a record among those from 0 to"),
    ],
    ids=["removed", "inserted", "moved", "shown otherwise", "rewritten"],
)
def test_a_changed_record_is_found(
    folder: Path, told: tuple[Path, str], change: Callable[[list[str], int], None], words: str
) -> None:
    line(folder, 5, change)
    with pytest.raises(BadArtifact, match=words):
        verify(folder, told[1])


def test_a_cut_tail_and_a_lost_checkpoint_are_found(folder: Path, told: tuple[Path, str], tmp_path: Path) -> None:
    last = sorted(folder.glob("audit-*.jsonl"))[-1]
    shutil.move(last, tmp_path / "away")
    with pytest.raises(BadArtifact, match="the tail is cut off"):
        verify(folder, told[1])
    kept = sorted(folder.glob("checkpoint-*"))[-1]
    elsewhere = Path(shutil.move(kept, tmp_path / kept.name))
    assert verify(folder, told[1]).unproven == 0  # all that is here is as it was signed
    with pytest.raises(BadArtifact, match="the tail is cut off"):
        verify(folder, told[1], (elsewhere,))
    shutil.move(tmp_path / "away", last)
    assert verify(folder, told[1], (elsewhere,)).unproven == 0
    assert verify(folder, told[1]).unproven > 0


def test_a_checkpoint_that_was_changed_or_is_anothers_is_refused(folder: Path, told: tuple[Path, str], tmp_path: Path) -> None:
    note = sorted(folder.glob("checkpoint-*"))[0]
    note.write_text(note.read_text().replace("brain\n1", "brain\n2", 1))
    with pytest.raises(BadInput, match="not signed by that key"):
        verify(folder, told[1])
    stranger = audit_signer(tmp_path / "key")
    with pytest.raises(BadInput, match="not signed by that key"):
        verify(folder, verifier_key(stranger.name, stranger.public))
    with pytest.raises(BadInput, match="no public key"):
        verify(folder, "brain+00000000+AAAA")
    with pytest.raises(NotFound):
        verify(tmp_path / "nowhere", told[1])


def test_a_history_that_was_rewritten_is_found_at_the_next_export(tmp_path: Path) -> None:
    source = Source()
    source.act(3)
    export(source, tmp_path / "kept")
    source.brain.store._audit[2].detail["digest"] = "another"  # type: ignore[attr-defined]
    source.act(1)
    export(source, tmp_path / "new")  # knows no better
    with pytest.raises(BadArtifact, match="not what was signed"):
        export(source, tmp_path / "kept")


def test_the_homes_key_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    one, again = audit_signer(tmp_path / "home" / "key"), audit_signer(tmp_path / "home" / "key")
    assert (one.name, one.public) == (again.name, again.public)
    assert verifies(one.public, one.sign(b"x"), b"x")
    assert not verifies(one.public, one.sign(b"x"), b"y")
    (tmp_path / "home" / "key").chmod(0o644)
    with pytest.raises(Conflict, match="others than this user"):
        audit_signer(tmp_path / "home" / "key")


def test_a_checkpoint_is_a_note_that_others_can_read(told: tuple[Path, str]) -> None:
    folder, key = told
    name, public = read_verifier_key(key)
    note = sorted(folder.glob("checkpoint-*"))[0].read_text()
    origin, size, root, blank, signature = note.split("\n")[:5]
    assert (origin, blank) == (name, "")
    assert signature.startswith(f"\u2014 {name} ")
    found = opened(note, [(name, public)], verifies, "here")
    assert (str(found.size), len(found.root), len(root)) == (size, 32, 44)


def test_several_keys_may_be_told_in_one_word(folder: Path, told: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(folder), "--key", "\n".join([told[1]] * 6)]) == 0  # longer than a file's name may be
    assert "whole: " in capsys.readouterr().out
