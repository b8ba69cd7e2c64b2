"""What grows is bounded: ended rollouts, evidence that waits for the store, marks of scorers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cluster.audit.uses import SeenCallers
from cluster.errors import Unreachable
from cluster.rollout import evidence, inbox
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey, mark
from cluster.state import AuditEvent, State
from cluster.store.memory import MemoryStore
from tests.support.brain import SURE, Brain


def test_the_last_ended_rollouts_are_kept_and_the_audit_has_all() -> None:
    brain = Brain()
    brain.serve_first({**SURE, "start": "manual", "keep_ended": 3, "keep_warm_s": 10_000})
    brain.build(2)
    for version in (2, 1) * 5:
        brain.call("rollout.start", model="digits", version=version, plan="instant")
        brain.tick(4)
    state = brain.store.load()
    assert sorted(state.rollouts) == [9, 10, 11]
    assert state.rollout_of("digits") == state.rollouts[11]
    history = brain.call("rollout.history", model="digits")
    assert [rollout["id"] for rollout in history["rollouts"]] == [11, 10, 9]
    assert [event["rollout"] for event in history["audit"] if event["event"] == "promoted"] == list(range(1, 12))
    brain.call("rollout.start", model="digits", version=2)  # one under way is kept besides
    brain.tick(2)
    assert sorted(brain.store.load().rollouts) == [9, 10, 11, 12]
    brain.call("rollout.start", model="digits", version=2, supersede=True)
    assert sorted(brain.store.load().rollouts) == [10, 11, 12, 13]


def test_other_models_keep_theirs() -> None:
    state = State()
    brain = Brain()
    brain.serve_first({**SURE, "keep_ended": 1})
    ended = brain.store.load().rollouts[1]
    other = ended.__class__(**{**{name: getattr(ended, name) for name in ended.__slots__}, "model": "other"})
    state = state.with_rollout(ended).with_rollout(other)
    assert state.with_newest_rollouts("digits", 1) is state


class Away(MemoryStore):
    """One that takes nothing while it is away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def save(
        self, fence: int, before: State, after: State, events: Sequence[AuditEvent], seen: SeenCallers | None = None
    ) -> None:
        if self.away:
            raise Unreachable("the store is locked", where="store", remedy="wait")
        super().save(fence, before, after, events, seen)


def test_evidence_that_waits_for_the_store_is_bounded_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PUSHED_AT_MOST", 5)
    store = Away()
    brain = Brain(store)
    brain.serve_first({**SURE, "steps": [{"weight": 10, "bake_s": 3600}, {"weight": 100}], "deadline_s": 7200})
    brain.build(2)
    brain.tick(4)
    stage = brain.controller.table.routes["digits"].stage
    batches = [EvidenceBatch("s1", number, {EvidenceKey("digits", stage, 2): Counts(rows=10)}) for number in range(1, 8)]
    store.away = True
    for batch in batches[:5]:
        brain.controller.push(batch)
        brain.tick()
    for batch in batches[5:]:
        with pytest.raises(Unreachable, match="push it again later"):
            brain.controller.push(batch)
        brain.tick()
    store.away = False
    brain.tick()
    for batch in batches[5:]:
        brain.controller.push(batch)
    brain.tick()
    assert brain.store.load().evidence[EvidenceKey("digits", stage, 2)] == Counts(rows=70)


def test_of_many_scorers_the_marks_of_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MARKS_AT_MOST", 3)
    marks: dict[str, int] = {}
    for scorer, sequence in (("a", 1), ("b", 1), ("c", 1), ("a", 2), ("d", 1)):
        mark(marks, scorer, sequence)
    assert marks == {"c": 1, "a": 2, "d": 1}


def test_marks_of_restarting_scorers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MARKS_AT_MOST", 4)
    brain = Brain()
    brain.serve_first({**SURE, "steps": [{"weight": 10, "bake_s": 3600}, {"weight": 100}], "deadline_s": 7200})
    brain.build(2)
    brain.tick(4)
    for number in range(20):
        brain.score(2, rows=1, scorer=f"s{number}")
        brain.tick()
    assert set(brain.store.load().scorers) == {"s16", "s17", "s18", "s19"}
