"""Old records go once they are exported; what stays is proven as before, by other keys too, and wherever checkpoints are kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cluster.audit.checkpoint import AuditSigner, verifier_key
from cluster.commands.watch.whole_audit import PruneAudit
from cluster.errors import BadArtifact, BadInput, Conflict, NotFound
from cluster.store.sql import SqlStore
from headrace.audit import export as exporting
from headrace.audit import verify as verifying
from headrace.audit.export import export, prune
from headrace.audit.key import audit_signer
from headrace.audit.places import place_of
from headrace.audit.sending import CheckpointSender
from headrace.audit.verify import verify
from tests.support.brain import SIGNER, Brain
from tests.unit.audit.test_audit_proof import Source

KEY = verifier_key(SIGNER.name, SIGNER.public)


@pytest.fixture
def source() -> Source:
    """Some records of today, and some of ten days later."""
    source = Source()
    source.act(20)
    source.brain.clock.now_s += 10 * 86_400
    source.act(5)
    return source


def days(source: Source, ago: float) -> float:
    return source.brain.clock.now_s - ago * 86_400


def test_what_is_pruned_is_exported_and_all_of_it_stays_proven(source: Source, tmp_path: Path) -> None:
    folder, before = tmp_path / "kept", source.size
    gone = prune(source, folder, days(source, 1))
    assert gone == before - 5
    assert source.audit_checkpoint().first == gone
    with pytest.raises(NotFound, match=f"records before {gone} were pruned"):
        source.audit_records(gone - 1)
    source.act(9)
    assert prune(source, folder, days(source, 1)) == 0
    whole = verify(folder, KEY)
    assert (whole.records, whole.first) == (before + 1 + 9, 0)  # that it was pruned is one
    checkpoints = tuple(sorted(folder.glob("checkpoint-*")))
    later = tmp_path / "later"
    assert export(source, later).added == 5 + 1 + 9
    began = verify(later, KEY)
    assert (began.first, began.records, began.unproven) == (gone, 15, 0)
    # The two are one history: what proves the later one's beginning is true of the earlier one.
    assert verify(folder, KEY, tuple(later.glob("checkpoint-*"))).records == whole.records
    source.brain.clock.now_s += 86_400
    assert prune(source, folder, days(source, 0.5)) == 15
    export(source, tmp_path / "even later")
    with pytest.raises(NotFound, match="are not in this folder"):
        verify(tmp_path / "even later", KEY, checkpoints)


def test_pieces_are_as_good(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "MOST_PRUNED", 4)
    gone = prune(source, tmp_path, days(source, 1))
    assert gone == source.audit_checkpoint().first
    assert gone > 16
    assert verify(tmp_path, KEY).first == 0


def test_nobody_prunes_what_he_has_not_got(source: Source) -> None:
    for size, root, kind in (
        (5, "0" * 64, Conflict),
        (source.size + 10, "0" * 64, BadInput),
    ):
        with pytest.raises(kind):
            source.prune_audit(PruneAudit(size=size, root=root))
    assert source.audit_checkpoint().first == 0


def test_an_edge_that_was_changed_or_lost_its_checkpoint_is_found(source: Source, tmp_path: Path) -> None:
    prune(source, tmp_path / "kept", days(source, 1))
    folder = tmp_path / "later"
    export(source, folder)
    edge = folder / verifying.EDGE
    good = edge.read_text()
    edge.write_text(good.replace(good[-10:-4], "000000"))
    with pytest.raises(BadArtifact, match="not what was signed"):
        verify(folder, KEY)
    edge.write_text(good)
    min(folder.glob("checkpoint-*")).unlink()
    with pytest.raises(BadArtifact, match="no checkpoint proves where this folder begins"):
        verify(folder, KEY)


def test_a_service_that_lost_records_is_found(source: Source, tmp_path: Path) -> None:
    export(source, tmp_path)
    del source.brain.store._audit[-3:]  # type: ignore[attr-defined]
    with pytest.raises(BadArtifact, match="some are gone"):
        export(source, tmp_path)
    assert verify(tmp_path, KEY).unproven == 0  # and nothing of it was kept


def test_a_store_that_lost_its_last_records_refuses_to_prune_them(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    brain = Brain(SqlStore(f"sqlite:///{file}"))
    brain.serve_first()
    size = brain.call("checkpoint.show")["size"]
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM audit WHERE number >= ?", (size - 2,))
    with pytest.raises(Conflict, match=f"the records from {size - 2} on are not in the store any more"):
        brain.call("audit.prune", size=size, root="0" * 64)
    brain.store.close()


def test_what_is_there_is_read_once(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(source, tmp_path)
    source.act(2)
    read: list[Path] = []
    text, lines = verifying._text, verifying._lines
    monkeypatch.setattr(verifying, "_text", lambda file: (read.append(file), text(file))[1])
    monkeypatch.setattr(verifying, "_lines", lambda file: (read.append(file), lines(file))[1])
    export(source, tmp_path)
    assert len(read) == len(set(read)) == 2


def test_another_home_signs_with_another_key_and_who_knows_both_verifies_all(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    export(source, folder)
    moved = audit_signer(tmp_path / "home" / "key")
    source.brain = brain_with(moved, source.brain)
    source.brain.tick()
    source.act(3)
    with pytest.raises(BadInput, match="not signed by that key"):
        export(source, folder)
    assert export(source, folder, KEY).added == 4
    both = f"{KEY}\n{verifier_key(moved.name, moved.public)}\n"
    assert verify(folder, both).unproven == 0
    told = [document for document in source.audit_records(source.size - 4).documents if '"audit key"' in document]
    assert len(told) == 1
    assert verifier_key(moved.name, moved.public) in told[0]


def brain_with(signer: AuditSigner, before: Brain) -> Brain:
    """Another controller over the same store, which signs with another key."""
    brain = Brain(before.store, before.fleet)
    brain.clock = before.clock
    brain.revive(signer=signer)
    return brain


def test_a_folder_keeps_checkpoints_and_tells_of_a_rewritten_history(source: Source, tmp_path: Path) -> None:
    places = [str(tmp_path / "one"), (tmp_path / "two").as_uri()]
    sender = CheckpointSender(source.audit_checkpoint, places)
    assert (sender.send(), sender.send()) == (2, 2)
    first = source.size
    source.act(1)
    assert sender.send() == 2
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == [
        f"checkpoint-{first:012d}",
        f"checkpoint-{first + 1:012d}",
    ]
    export(source, tmp_path / "kept")
    assert verify(tmp_path / "kept", KEY, tuple((tmp_path / "one").iterdir())).checkpoints == 3
    source.brain.store._audit[2].detail["digest"] = "another"  # type: ignore[attr-defined]
    newest = source.audit_checkpoint()
    with pytest.raises(BadArtifact, match="the audit was rewritten"):
        place_of(places[0])(newest.note, newest.size)


def test_a_place_that_is_none_is_refused_and_one_that_is_away_gets_the_next(source: Source, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no brokers and topic"):
        place_of("kafka://broker:9092")
    (tmp_path / "file").write_text("")
    sender = CheckpointSender(source.audit_checkpoint, [str(tmp_path / "file" / "in")])
    assert sender.send() == 0
    (tmp_path / "file").unlink()
    assert sender.send() == 1
