"""Every command that changes something leaves an event that says who asked for it; what only looks leaves none."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from cluster.audit.merkle import TreeHead
from cluster.commands.command import Command
from cluster.commands.registry import COMMANDS
from cluster.errors import BadInput
from cluster.state import AuditEvent
from tests.support.brain import SIGNATURE, SURE, Brain
from tests.support.drift import NumberRows, normal
from tests.support.live_labels import tell_labels, with_labels

STREAM = {"kind": "stream", "name": "scores"}
BATCH = {"kind": "batch", "name": "nightly"}
DIGITS = {"model": "digits"}
THIRD = {"artifact_uri": "file:///3", "digest": "d3", "engine": "onnx", "signature": SIGNATURE}
KEY = {"name": "team", "id": "a" * 10, "digest": "0" * 64}
TOLD = DIGITS | {"rollout": 2, "same": 100, "different": 0, "failed": 0, "p99_ms": 1}
NEXT_KEY = {"name": "team", "id": "b" * 10, "digest": "1" * 64}
APPLIED = {"models": [{"name": "digits", "rollout": SURE, "serving": {"threads": 2}}]}
SEEN = {"digest": hashlib.sha256(b"digits\n{}").hexdigest(), "wanted": "running", "since_s": 1000.0}
REPLAY = {"name": "scores", "replay": "r1", "which": "those that failed", "letters": 2}
SEEK = {"name": "scores", "to": "latest", "seen": SEEN, "skips": {"in/0": 4, "in/1": 0}, "repeats": {}}
ENDED = {"name": "scores", "event": "stream.seek", "words": "the broker is away", "good": False}
LINK = {"id": "a" * 10, "code": "c" * 24, "lasts_s": 600}
SUBJECTS = {"name": "people", "number": 1, "document": "sealed", "erased": "0" * 32}
SIGNED = {"act": "model.sign", "stage": "begun", "versions": [1], "keys": ["k1"]}
# By command: what is asked first, the request, and the event that it leaves.
CHANGES: dict[str, tuple[tuple[str, ...], dict[str, Any], str, dict[str, Any]]] = {
    "apply": ((), APPLIED, "applied", {"kind": "model", "name": "digits", "action": "updated"}),
    "version.register": ((), DIGITS | THIRD, "registered", {"version": 4, "digest": "d3"}),
    "version.remove": ((), DIGITS | {"version": 3}, "removed", {"version": 3}),
    "model.scale": ((), DIGITS | {"replicas": 3}, "scaled", {"replicas": 3}),
    "rollout.start": ((), DIGITS | {"version": 2}, "started", {"candidate": 2, "stable": 1}),
    "rollout.pause": (("rollout.start",), DIGITS, "paused", {}),
    "rollout.resume": (("rollout.start", "rollout.pause"), DIGITS, "pending", {}),
    "rollout.promote": (("rollout.start", "tick"), DIGITS, "promoted", {}),
    "rollout.abort": (("rollout.start",), DIGITS, "rolled_back", {}),
    "quality.clear": (("alarm",), DIGITS, "quality.clear", {"version": None}),
    "rollout.preflight": (("preflighted rollout",), TOLD, "preflight", {"same": 100, "different": 0, "failed": 0}),
    "drift.clear": (("drift",), DIGITS | {"feature": "x[0]"}, "drift.clear", {"feature": "x[0]"}),
    "feed.pause": ((), STREAM, "feed.pause", STREAM),
    "feed.resume": (("feed.pause",), STREAM, "feed.resume", STREAM),
    "stream.look": ((), {"name": "scores", "partition": 0, "offset": 7}, "dead letter looked at", STREAM | {"offset": 7}),
    "stream.replay": ((), REPLAY, "stream.replay", STREAM | {"replay": "r1", "letters": 2}),
    "stream.seek": ((), SEEK, "stream.seek", STREAM | {"to": "latest", "skips": {"in/0": 4}}),
    "stream.ended": ((), ENDED, "stream.seek failed", STREAM | {"reason": "the broker is away"}),
    "feed.delete": ((), STREAM, "feed.delete", STREAM),
    "batch.run": ((), {"name": "nightly"}, "batch.run", BATCH | {"gives_up": ""}),
    "batch.resume": ((), {"name": "nightly", "run": "r1"}, "batch.resume", BATCH | {"run": "r1"}),
    "batch.cancel": (("batch.run",), {"name": "nightly"}, "batch.cancel", BATCH),
    "key.create": ((), KEY, "key created", {"key": "team", "id": "a" * 10}),
    "key.rotate": (("key.create",), NEXT_KEY, "key rotated", {"key": "team", "id": "b" * 10}),
    "key.revoke": (("key.create",), {"name": "team"}, "key revoked", {"key": "team", "id": "a" * 10}),
    "key.home": ((), {"id": "a" * 10, "digest": "0" * 64}, "home admitted", {"key": "home", "id": "a" * 10}),
    "key.link": (("key.create",), LINK, "link used", {"key": "team", "code": LINK["code"]}),
    "audit.prune": (("exported",), {"size": 2, "root": "0" * 64}, "pruned", {"records": 2, "before": 2}),
    "subject-keys.replace": ((), SUBJECTS, "subject erased", {"keys": "people", "number": 1, "subject": "0" * 32}),
    "act.tell": ((), DIGITS | SIGNED, "model.sign", {"stage": "begun", "versions": [1], "keys": ["k1"]}),
    "model.delete": (("feed.delete", "no batch"), DIGITS, "model.delete", {"artifacts": False}),
}
LOOKS: dict[str, dict[str, Any]] = {
    "status": {},
    "key.list": {},
    "metrics.list": {},
    "metrics.history": {},
    "audit.list": {},
    "checkpoint.show": {},
    "glance.show": {},
    "audit.search": {},
    "access.show": {},
    "version.resolve": DIGITS,
    "model.show": DIGITS,
    "quality.show": DIGITS,
    "rollout.status": DIGITS,
    "rollout.history": DIGITS,
    "drift.status": DIGITS,
    "feed.list": {},
    "feed.show": STREAM,
    "stream.show": {"name": "scores"},
    "subject-keys.show": {"name": "people"},
}


@pytest.fixture
def brain() -> Brain:
    """Version 1 of `digits` is stable, 2 and 3 wait; a stream and a batch score with it."""
    brain = Brain()
    plan, serving = {**SURE, "start": "manual"}, {"scaling": {"mode": "manual", "replicas": 1}}
    brain.build(1)
    brain.apply(plan, serving, feeds=[feed | {"model": "digits", "spec": {}} for feed in (STREAM, BATCH)])
    brain.tick(4)
    brain.build(2)
    brain.build(3)
    brain.tick()
    return brain


def told(brain: Brain) -> list[AuditEvent]:
    """Of the model, and of what is about no model: keys."""
    return brain.store.audit("digits") + brain.store.audit("")


def test_each_command_changes_or_looks_or_is_known_to_be_untold() -> None:
    assert set(CHANGES) | set(LOOKS) | {name for name, entry in COMMANDS.items() if not entry.told} == set(COMMANDS)
    assert set(LOOKS) == {name for name, entry in COMMANDS.items() if entry.looks}
    assert all(issubclass(COMMANDS[command].request, Command) for command in CHANGES)


def drift(brain: Brain) -> None:
    """An alarm stands."""
    rng = np.random.default_rng(1)
    rows = NumberRows(normal(rng, 2000, 1))
    brain.controller.push(rows.report(normal(rng, 2000, 1, (3.0,)), 1))
    brain.tick(each_s=11)


@pytest.mark.parametrize("command", CHANGES)
@pytest.mark.parametrize(("actor", "by"), [("ann", "ann"), ("", "a person")])
def test_what_changes_something_says_who_asked(brain: Brain, command: str, actor: str, by: str) -> None:
    first, request, event, detail = CHANGES[command]
    for earlier in first:
        if earlier == "tick":
            brain.tick(4)
        elif earlier == "alarm":
            tell_labels(brain, with_labels(brain), right=0, wrong=100)
        elif earlier == "preflighted rollout":
            brain.call("rollout.start", **DIGITS, version=2, plan={**SURE, "preflight": {"payloads": "/payloads"}})
        elif earlier == "drift":
            drift(brain)
        elif earlier == "exported":
            first_two = TreeHead().adding(one.document.encode() for one in brain.store.audit_records(0, 2))
            request = {"size": 2, "root": first_two.root.hex()}
        elif earlier == "no batch":
            brain.call("feed.delete", **BATCH)
        else:
            brain.call(earlier, **CHANGES[earlier][1])
    before = len(told(brain))
    brain.call(command, **request, actor=actor)
    gone = brain.store.audit_pruned().size
    (new,) = told(brain)[before - gone :]
    assert (new.event, new.actor, new.at_s) == (event, by, brain.clock.now_s)
    assert new.detail.items() >= detail.items()


def test_a_batch_is_paused_under_its_own_name(brain: Brain) -> None:
    brain.call("feed.pause", **BATCH, actor="ann")
    (shown,) = [event for event in brain.call("rollout.history", model="digits")["audit"] if event["event"] == "feed.pause"]
    assert (shown["actor"], shown["rollout"], shown["detail"]) == ("ann", None, BATCH)


@pytest.mark.parametrize("command", LOOKS)
def test_what_only_looks_leaves_nothing(brain: Brain, command: str) -> None:
    brain.call("subject-keys.replace", **SUBJECTS)
    before = told(brain), brain.store.load()
    brain.call(command, **LOOKS[command])
    assert (told(brain), brain.store.load()) == before


@pytest.mark.parametrize(("command", "first"), [("feed.resume", ()), ("feed.pause", ("feed.pause",))])
def test_what_is_so_already_leaves_nothing(brain: Brain, command: str, first: tuple[str, ...]) -> None:
    for earlier in first:
        brain.call(earlier, **STREAM)
    before = told(brain), brain.store.load()
    brain.clock.now_s += 60
    brain.call(command, **STREAM, actor="ann")
    assert (told(brain), brain.store.load()) == before


def test_what_a_stream_remembers_for_itself_is_no_ones_decision(brain: Brain) -> None:
    before = told(brain)
    brain.call("feed.notes", **STREAM, notes={"begins/in/0": "17"})
    assert brain.store.load().feeds["stream--scores"].notes == {"begins/in/0": "17"}
    assert told(brain) == before


def test_what_is_refused_leaves_nothing(brain: Brain) -> None:
    before = told(brain)
    with pytest.raises(BadInput, match="actor"):
        brain.call("feed.pause", **STREAM, actor="a" * 201)
    assert told(brain) == before
