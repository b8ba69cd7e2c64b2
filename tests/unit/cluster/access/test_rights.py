"""Every command, asked by nobody, by who has each of the other roles, and by who has rights over another model."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.access.callers import SEE_YOURS, STRANGER, VISITOR, Caller, Role, grant_of
from cluster.commands.registry import COMMANDS
from cluster.errors import Forbidden, HeadraceError, NotFound, Unauthenticated
from tests.support.brain import SURE, Brain
from tests.unit.cluster.test_audit_of_commands import CHANGES, LOOKS, STREAM

OVER_MODELS = [role for role in Role if role is not Role.ADMIN]
# Whose answers hold what their caller may see.
FILTERED = {"status", "feed.list", "metrics.list", "metrics.history", "glance.show", "audit.search"}
CLUSTERS = {"checkpoint.told", "feed.notes", "key.home", "key.link", "rollout.preflight", "stream.ended"}
ADMINS = {
    "access.show",
    "audit.list",
    "audit.prune",
    "checkpoint.show",
    "key.create",
    "key.list",
    "key.revoke",
    "key.rotate",
    "subject-keys.replace",
    "subject-keys.show",
}
ROLES: dict[str, set[Role]] = {
    **{
        command: {Role.VIEW}
        for command in (
            "model.show",
            "quality.show",
            "rollout.status",
            "rollout.history",
            "feed.show",
            "drift.status",
            "stream.show",
        )
    },
    "version.resolve": {Role.VIEW, Role.DEPLOY},
    "rollout.label": {Role.SCORE, Role.OPERATE},
    "act.tell": {Role.SCORE, Role.OPERATE, Role.DEPLOY},
    **{f"rollout.{move}": {Role.OPERATE} for move in ("start", "pause", "resume", "promote", "abort")},
    **{command: {Role.OPERATE} for command in ("model.scale", "quality.clear", "feed.pause", "feed.resume", "drift.clear")},
    **{f"batch.{move}": {Role.OPERATE} for move in ("run", "resume", "cancel")},
    **{command: {Role.OPERATE} for command in ("stream.look", "stream.replay", "stream.seek")},
    **{command: {Role.DEPLOY} for command in ("apply", "version.register", "version.remove", "model.delete", "feed.delete")},
}
REQUESTS: dict[str, dict[str, Any]] = {
    **{command: request for command, (_, request, _, _) in CHANGES.items()},
    **LOOKS,
    "feed.notes": STREAM,
    "checkpoint.told": {"records": 1, "away": {"/mnt/other": "NoCapacity"}},
    "rollout.label": {"model": "digits", "labels": [{"key": "x", "label": 1}]},
}


@pytest.fixture
def brain() -> Brain:
    """Models `digits` and `secret`, each with a stream; `digits` with a batch too."""
    brain = Brain()
    for model in ("digits", "secret"):
        brain.call("apply", models=[{"name": model, "rollout": {**SURE, "start": "manual"}, "serving": {}}])
    brain.call(
        "apply",
        feeds=[
            {"kind": "stream", "name": "scores", "model": "digits", "spec": {}},
            {"kind": "stream", "name": "hidden", "model": "secret", "spec": {}},
            {"kind": "batch", "name": "nightly", "model": "digits", "spec": {}},
        ],
    )
    brain.tick(2)
    return brain


def refused(brain: Brain, command: str, caller: Caller, **request: Any) -> type[HeadraceError] | None:
    """What keeps the caller from it: of rights, not of what the state allows."""
    try:
        brain.controller.call(command, request or REQUESTS[command], caller)
    except (Unauthenticated, Forbidden) as error:
        return type(error)
    except NotFound as error:
        return NotFound if error.remedy == SEE_YOURS else None
    except HeadraceError:
        return None
    return None


def having(*roles: Role, over: str = "digits") -> Caller:
    return Caller("key team", (grant_of(roles, over),) if roles else ())


def test_every_command_is_known_here() -> None:
    assert set(ROLES) | FILTERED | CLUSTERS | ADMINS == set(COMMANDS) == set(REQUESTS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_stranger_runs_none_that_tells_or_changes_anything(brain: Brain, command: str) -> None:
    if command in FILTERED:
        answer = brain.controller.call(command, {}, STRANGER)
        assert {"models", "feeds", "values", "lines", "events"} & set(answer)
        assert not any(answer.values()) or (answer["models"], answer["feeds"]) == ([], [])
    else:
        assert refused(brain, command, STRANGER) is Unauthenticated


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_visitor_sees_and_changes_nothing(brain: Brain, command: str) -> None:
    looks = command in FILTERED or Role.VIEW in ROLES.get(command, ()) or command == "rollout.label"
    assert refused(brain, command, VISITOR) is (None if looks else Unauthenticated)


@pytest.mark.parametrize("role", OVER_MODELS)
@pytest.mark.parametrize("command", sorted(ROLES))
def test_the_right_role_over_the_right_model(brain: Brain, command: str, role: Role) -> None:
    assert refused(brain, command, having(role)) is (None if role in ROLES[command] else Forbidden)
    assert refused(brain, command, having(role, over="other-*")) is NotFound
    assert refused(brain, command, having()) is NotFound


@pytest.mark.parametrize("command", sorted(ADMINS | CLUSTERS))
def test_only_admins_make_keys_and_only_the_cluster_speaks_for_itself(brain: Brain, command: str) -> None:
    assert refused(brain, command, having(*OVER_MODELS, over="*")) is Forbidden
    assert refused(brain, command, having(*Role, over="*")) is (Forbidden if command in CLUSTERS else None)


def test_lists_hold_what_their_caller_may_see(brain: Brain) -> None:
    assert brain.controller.call("status", {}, having(Role.SCORE))["models"] == []  # artifacts and all
    seen = brain.controller.call("status", {}, having(Role.VIEW))
    assert [model["name"] for model in seen["models"]] == ["digits"]
    assert [feed["name"] for feed in seen["feeds"]] == ["nightly", "scores"]
    assert [feed["name"] for feed in brain.controller.call("feed.list", {}, having(Role.VIEW, over="sec*"))["feeds"]] == [
        "hidden"
    ]


def test_what_may_not_be_seen_and_what_is_not_there_are_refused_in_the_same_words(brain: Brain) -> None:
    told = []
    caller = having(*OVER_MODELS, over="d*")
    for model in ("secret", "no-such"):
        with pytest.raises(NotFound) as caught:
            brain.controller.call("model.show", {"model": model}, caller)
        told.append((caught.value.what.replace(model, ""), caught.value.remedy))
    assert len(set(told)) == 1
    with pytest.raises(NotFound, match="there is no model 'd-none'") as caught:
        brain.controller.call("model.show", {"model": "d-none"}, caller)
    assert caught.value.remedy == "known models: digits"
    for name in ("hidden", "no-such"):
        with pytest.raises(NotFound) as caught:
            brain.controller.call("feed.show", {"kind": "stream", "name": name}, caller)
        assert (caught.value.what.replace(name, ""), caught.value.where) == ("there is no stream ''", "feed.show")


def test_a_stream_is_not_moved_away_from_a_model_that_is_not_ones_own(brain: Brain) -> None:
    moved = {"feeds": [{"kind": "stream", "name": "hidden", "model": "digits", "spec": {}}]}
    assert refused(brain, "apply", having(Role.DEPLOY), **moved) is NotFound
    assert refused(brain, "apply", having(Role.DEPLOY), access={}) is Forbidden


def test_a_model_that_the_request_does_not_name_is_not_named_to_who_may_not_see_it(brain: Brain) -> None:
    brain.call("apply", models=[{"name": "secret", "serving": {}}], project="both")
    caller = having(Role.DEPLOY)
    moved = {"feeds": [{"kind": "stream", "name": "hidden", "model": "digits", "spec": {}}]}
    pruned = {"models": [{"name": "digits", "serving": {}}], "project": "both", "prune": True}
    for request, words in ((moved, "'hidden' is not yours"), (pruned, "not all of project 'both' is yours")):
        with pytest.raises(NotFound, match=words) as caught:
            brain.controller.call("apply", request, caller)
        assert "secret" not in str(caught.value)


def test_what_became_of_keys_is_for_admins(brain: Brain) -> None:
    brain.call("key.create", name="team", id="a" * 10, digest="0" * 64)
    for caller in (VISITOR, having(*OVER_MODELS, over="*")):
        with pytest.raises(NotFound, match="there is no model ''"):
            brain.controller.call("rollout.history", {"model": ""}, caller)
    told = brain.controller.call("rollout.history", {"model": ""}, having(*Role, over="*"))
    assert [event["event"] for event in told["audit"]] == ["key created"]


def test_the_audit_names_the_caller_and_not_who_he_says_he_is(brain: Brain) -> None:
    brain.controller.call("feed.pause", {**STREAM, "actor": "the boss"}, having(Role.OPERATE))
    assert brain.store.audit("digits")[-1].actor == "key team"
