"""What the controller allows of moves of streams and remembers of them; links that are good once; the audit as it is searched."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.access.callers import EVERYTHING, Caller, Role, grant_of
from cluster.commands.watch import audit_search
from cluster.errors import Conflict, Forbidden, Unauthenticated
from cluster.store.port import AuditRecord
from tests.support.brain import SURE, Brain

LINK = {"code": "c" * 24, "lasts_s": 600.0}
PAYLOADS = {"redact": ["input"], "parquet": {"path": "/payloads"}}


@pytest.fixture
def brain() -> Brain:
    """The stream `scores` of the model `digits` runs; nobody's payloads of `input` are kept."""
    brain = Brain()
    brain.build(1)
    brain.call("apply", models=[{"name": "digits", "rollout": SURE, "serving": {}, "payloads": PAYLOADS}])
    brain.call("apply", feeds=[{"kind": "stream", "name": "scores", "model": "digits", "spec": {"a": 1}}])
    brain.tick(4)
    return brain


def shown(brain: Brain) -> dict[str, Any]:
    return brain.call("stream.show", name="scores")


def seek(brain: Brain, seen: dict[str, Any]) -> dict[str, Any]:
    return brain.call("stream.seek", name="scores", to="latest", seen=seen, skips={"in/0": 4}, repeats={}, actor="ann")


def events(brain: Brain) -> list[str]:
    return [event.event for event in brain.store.audit("digits")]


def test_a_stream_tells_what_may_not_be_shown_of_it(brain: Brain) -> None:
    told = shown(brain)
    assert (told["spec"], told["inputs"], told["redact"]) == ({"a": 1}, ["input"], ["input"])
    assert told["seen"]["wanted"] == "running"


def test_a_seek_stops_the_stream_that_was_seen_and_its_end_lets_it_run_again(brain: Brain) -> None:
    seen = shown(brain)["seen"]
    stopped = seek(brain, seen)
    assert stopped["seen"]["wanted"] == "paused"
    brain.tick(2)
    assert brain.call("feed.show", kind="stream", name="scores")["status"] == "stopped"
    brain.call("stream.ended", name="scores", event="stream.seek", words="moved", good=True, stopped_s=stopped["seen"]["since_s"])
    assert shown(brain)["seen"]["wanted"] == "running"
    assert events(brain)[-2:] == ["stream.seek", "stream.seek done"]


@pytest.mark.parametrize("change", ["pause", "pause and resume", "document"])
def test_a_stream_that_changed_since_it_was_seen_is_not_moved(brain: Brain, change: str) -> None:
    seen = shown(brain)["seen"]
    brain.clock.now_s += 1
    if change == "document":
        brain.call("apply", feeds=[{"kind": "stream", "name": "scores", "model": "digits", "spec": {"a": 2}}])
    for each in change.split(" and ") if change != "document" else ():
        brain.call(f"feed.{each}", kind="stream", name="scores")
    wanted = shown(brain)["seen"]["wanted"]
    with pytest.raises(Conflict, match="changed since it was looked at"):
        seek(brain, seen)
    assert shown(brain)["seen"]["wanted"] == wanted
    assert "stream.seek" not in events(brain)


def test_a_seek_that_ends_overrules_nobody(brain: Brain) -> None:
    stopped_s = seek(brain, shown(brain)["seen"])["seen"]["since_s"]
    for move in ("resume", "pause"):
        brain.clock.now_s += 1
        brain.call(f"feed.{move}", kind="stream", name="scores")
    brain.call("stream.ended", name="scores", event="stream.seek", words="no", good=False, stopped_s=stopped_s)
    assert shown(brain)["seen"]["wanted"] == "paused"
    assert events(brain)[-1] == "stream.seek failed"


def test_a_pause_during_a_seek_outlasts_it(brain: Brain) -> None:
    stopped_s = seek(brain, shown(brain)["seen"])["seen"]["since_s"]
    brain.call("feed.pause", kind="stream", name="scores")
    brain.call("stream.ended", name="scores", event="stream.seek", words="moved", good=True, stopped_s=stopped_s)
    brain.tick(2, each_s=1000.0)
    assert shown(brain)["seen"]["wanted"] == "paused"


def test_a_stream_whose_mover_died_runs_again_also_with_another_controller(brain: Brain) -> None:
    stopped_s = seek(brain, shown(brain)["seen"])["seen"]["since_s"]
    brain.tick(2, each_s=200.0)
    assert shown(brain)["seen"]["wanted"] == "paused"
    brain.revive()
    brain.tick(2, each_s=200.0)
    assert shown(brain)["seen"]["wanted"] == "running"
    assert events(brain).count("stream.seek failed") == 1
    # The mover was there after all, and tells late: he no longer has a say.
    brain.call("feed.pause", kind="stream", name="scores")
    brain.call("stream.ended", name="scores", event="stream.seek", words="moved", good=True, stopped_s=stopped_s)
    assert shown(brain)["seen"]["wanted"] == "paused"


def test_a_link_is_good_once_also_for_another_controller(brain: Brain) -> None:
    brain.call("key.create", name="team", id="a" * 10, digest="0" * 64)
    brain.call("key.link", id="a" * 10, **LINK)
    brain.revive()
    for link in ({"id": "a" * 10, **LINK}, {"id": "b" * 10, **LINK, "code": "d" * 24}):
        with pytest.raises(Unauthenticated, match="this link was used"):
            brain.call("key.link", **link)
    brain.call("key.link", id="a" * 10, **LINK | {"code": "d" * 24})


def test_where_so_much_happened_that_used_links_may_be_forgotten_none_is_good(brain: Brain) -> None:
    brain.call("key.create", name="team", id="a" * 10, digest="0" * 64)
    for number in range(1000):
        brain.call("key.link", id="a" * 10, code=f"{number:024}", lasts_s=0.5)
        brain.clock.now_s += 0.6
    with pytest.raises(Unauthenticated):
        brain.call("key.link", id="a" * 10, **LINK | {"lasts_s": 700.0})


def found(brain: Brain, caller: Caller | None = None, **asked: Any) -> list[tuple[str, str]]:
    answer = brain.controller.call("audit.search", asked, *([caller] if caller else []))
    return [(event["model"], event["event"]) for event in answer["events"]]


def test_the_audit_is_searched_over_all_models_that_one_may_see(brain: Brain) -> None:
    brain.call("apply", models=[{"name": "fraud", "rollout": SURE, "serving": {}}], actor="bob")
    brain.call("feed.pause", kind="stream", name="scores", actor="Ann Li")
    brain.call("key.create", name="team", id="a" * 10, digest="0" * 64)
    assert found(brain)[:3] == [("", "key created"), ("digits", "feed.pause"), ("fraud", "applied")]  # the newest first
    assert found(brain, words="ann SCORES") == [("digits", "feed.pause")]
    assert found(brain, words="ann fraud") == []
    assert found(brain, model="fraud") == [("fraud", "applied")]
    viewer = Caller("key viewer", (grant_of((Role.VIEW,), "fraud"),))
    assert found(brain, viewer) == [("fraud", "applied")]
    assert found(brain, viewer, model="digits") == []


def test_a_search_goes_on_where_it_stopped(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_search, "LOOKED_AT_MOST", 3)
    everything, before = [], None
    while before != 0:
        answer = brain.call("audit.search", before=before, limit=2)
        everything += [event["number"] for event in answer["events"]]
        before = answer["looked_from"]
    assert everything == list(range(brain.store.audit_head().size))[::-1]


def test_a_search_reads_no_more_than_it_needs(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_search, "READ_AT_A_TIME", 2)
    read: list[tuple[int, int]] = []
    records, size = brain.store.audit_records, brain.store.audit_head().size

    def noted(first: int, limit: int) -> list[AuditRecord]:
        read.append((first, limit))
        return records(first, limit)

    monkeypatch.setattr(brain.store, "audit_records", noted)
    assert len(brain.call("audit.search", limit=3)["events"]) == 3
    assert read == [(size - 2, 2), (size - 4, 2)]


def test_records_that_were_pruned_are_not_looked_for(brain: Brain) -> None:
    size = brain.store.audit_head().size
    root = brain.store.audit_head().root.hex()
    brain.call("audit.prune", size=size, root=root)
    answer = brain.call("audit.search", limit=1)
    assert ([event["event"] for event in answer["events"]], answer["looked_from"]) == (["pruned"], 0)
    assert brain.call("audit.search", before=size)["events"] == []


def test_where_somebody_came_from_is_told_to_admins_alone(brain: Brain) -> None:
    boss = Caller("key boss", EVERYTHING).by("console", b"192.0.2.7")
    brain.controller.call("feed.pause", {"kind": "stream", "name": "scores"}, boss)
    viewer = Caller("key viewer", (grant_of((Role.VIEW,), "digits"),))
    assert found(brain, boss, words="192.0.2.7") == [("digits", "feed.pause")]
    assert found(brain, viewer, words="192.0.2.7") == []
    told = brain.controller.call("audit.search", {"words": "feed.pause"}, viewer)
    assert "192.0.2.7" not in str(told)


def test_who_may_only_view_looks_at_no_payload(brain: Brain) -> None:
    viewer = Caller("key viewer", (grant_of((Role.VIEW,), "digits"),))
    for command, request in (("stream.look", {"partition": 0, "offset": 1}), ("stream.show", {"role": "operate"})):
        with pytest.raises(Forbidden):
            brain.controller.call(command, {"name": "scores", **request}, viewer)
    assert "dead letter looked at" not in events(brain)
