"""Models that wait for nothing are passed over: what is decided is what would be without."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

import cluster.controller
from cluster.decide import Decision, Snapshot, decide
from cluster.ports import AppStatus
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.watch.reports import Buckets
from tests.support.brain import SIGNATURE, SURE, Brain

OTHERS = ("credit", "tumours")


@pytest.fixture
def passed_over(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """Of each decision, which models were; each is made twice, and must be the same without."""
    seen: list[frozenset[str]] = []

    def both(snapshot: Snapshot, now_s: float) -> Decision:
        decision, whole = decide(snapshot, now_s), decide(replace(snapshot, rests={}), now_s)
        assert decision.state == whole.state
        assert (decision.table, decision.actions, decision.events) == (whole.table, whole.actions, whole.events)
        assert (decision.faults, decision.rests) == (whole.faults, whole.rests)
        kept = {name for name, rest in decision.rests.items() if snapshot.rests.get(name) is rest}
        seen.append(frozenset(kept))
        return decision

    monkeypatch.setattr(cluster.controller, "decide", both)
    return seen


def test_they_are_looked_at_as_soon_as_anything_of_theirs_changes(passed_over: list[frozenset[str]]) -> None:
    brain = Brain()
    about = {"artifact_uri": "u", "digest": "d", "engine": "onnx", "signature": SIGNATURE}
    for name in OTHERS:
        brain.call("apply", models=[{"name": name}])
        brain.call("version.register", model=name, **about)
    brain.serve_first(SURE)
    brain.tick(3)
    everybody = frozenset({"digits", *OTHERS})
    assert passed_over[-1] == everybody

    brain.fleet.sicken("credit--v1", "the replica died")
    brain.tick()
    assert passed_over[-1] == everybody - {"credit"}
    brain.fleet.make_ready("credit--v1")
    brain.tick(2)
    assert passed_over[-1] == everybody

    brain.fleet.vanish("tumours--v1")
    brain.tick()
    assert passed_over[-1] == everybody - {"tumours"}
    assert brain.fleet.state()["tumours--v1"].status is not AppStatus.STOPPING
    brain.tick(4)
    assert passed_over[-1] == everybody

    brain.build(2)
    for _ in range(200):
        brain.score(1, rows=900)
        brain.score(2, rows=100)
        brain.tick()
        assert passed_over[-1] == frozenset(OTHERS) or brain.rollout()["state"] == "promoted"
    assert brain.rollout()["state"] == "promoted"
    brain.tick(200)
    assert passed_over[-1] == everybody, "the former version is no longer warm"

    brain.call("apply", models=[{"name": "credit", "serving": {"max_batch_rows": 7}}])
    brain.tick()
    assert passed_over[-1] == everybody - {"credit"}
    assert brain.controller.table.routes["credit"].serving.max_batch_rows == 7
    brain.call("model.delete", model="credit")
    brain.tick(60)
    assert passed_over[-1] == everybody - {"credit"}
    brain.revive()
    brain.tick()
    assert passed_over[-1] == frozenset()
    brain.tick(3)
    assert passed_over[-1] == everybody - {"credit"}


@pytest.mark.parametrize(
    "told", [EvidenceKey("digits", "r1.1", 2, "ann"), Counts(1, 2, 3, 4, 5, 6, 7, 0.5, 9), Buckets((1, 2), 0.5)], ids=repr
)
def test_what_is_told_is_as_it_was_when_it_was_pickled(told: object) -> None:
    assert pickle.loads(pickle.dumps(told)) == told  # noqa: S301 - its own
