"""What apply would change, field by field, and what pruning a project removes."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.commands.differences import differences
from cluster.errors import BadInput, Conflict
from cluster.fleet.desired import RETIRE_GRACE_S
from tests.support.brain import Brain

SCORES = {"kind": "stream", "name": "scores", "model": "digits", "spec": {"topic": "in", "input": {"format": "json"}}}
NIGHTLY = {"kind": "batch", "name": "nightly", "model": "digits", "spec": {"path": "/data"}, "schedule": {"cron": "0 2 * * *"}}
MODEL = {"name": "digits", "rollout": {"steps": [{"weight": 10}, {"weight": 100}]}, "serving": {"threads": 1}}
OTHER = {"name": "other"}


def applied(
    brain: Brain, *feeds: dict[str, Any], models: tuple[dict[str, Any], ...] = (MODEL,), **more: Any
) -> list[tuple[str, ...]]:
    changes = brain.call("apply", models=models, feeds=feeds, **more)["changes"]
    return [(one["kind"], one["name"], one["action"]) for one in changes]


def fields(brain: Brain, *feeds: dict[str, Any], models: tuple[dict[str, Any], ...] = ()) -> list[tuple[Any, ...]]:
    changes = brain.call("apply", models=models, feeds=feeds, dry_run=True)["changes"]
    return [(field["field"], field["before"], field["after"]) for one in changes for field in one["fields"]]


def test_a_dry_run_says_what_would_be_and_changes_nothing() -> None:
    brain = Brain()
    before = brain.store.load()
    assert applied(brain, SCORES, dry_run=True) == [("model", "digits", "created"), ("stream", "scores", "created")]
    assert (brain.store.load(), brain.store.audit("digits")) == (before, [])
    applied(brain, SCORES)
    assert applied(brain, SCORES, dry_run=True) == [("model", "digits", "unchanged"), ("stream", "scores", "unchanged")]


def test_what_would_be_refused_is_refused() -> None:
    with pytest.raises(BadInput, match="no model 'digits'"):
        applied(Brain(), SCORES, models=(), dry_run=True)


def test_each_field_is_told_with_what_it_is_and_would_be() -> None:
    brain = Brain()
    applied(brain, SCORES, NIGHTLY, models=(MODEL, OTHER))
    threads = MODEL | {"serving": {"threads": 4}, "rollout": {"steps": [{"weight": 20}, {"weight": 100}]}}
    assert fields(brain, models=(threads,)) == [("serving.threads", 1, 4), ("rollout.steps.0.weight", 10, 20)]
    shorter = MODEL | {"rollout": {"steps": [{"weight": 100}]}}
    assert ("rollout.steps.1.weight", 100, None) in fields(brain, models=(shorter,))
    moved = SCORES | {"model": "other", "spec": {"topic": "in", "input": {"format": "arrow", "group": "g"}}}
    assert fields(brain, moved) == [("input.format", "json", "arrow"), ("model", "digits", "other"), ("input.group", None, "g")]
    later = NIGHTLY | {"schedule": {"cron": "0 3 * * *"}}
    assert fields(brain, later) == [("schedule.cron", "0 2 * * *", "0 3 * * *")]
    assert fields(brain, NIGHTLY | {"schedule": None})[0] == ("schedule.cron", "0 2 * * *", None)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a", [1, 2], [1, 3])]),
        ({"a": {}}, {"a": {"b": 1}}, [("a.b", None, 1)]),
        ({"a": None}, {}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": False}, {"a": None}, [("a", False, None)]),
    ],
)
def test_differences(before: dict[str, Any], after: dict[str, Any], told: list[tuple[Any, ...]]) -> None:
    assert [(one.field, one.before, one.after) for one in differences(before, after)] == told


def test_what_has_no_document_any_more_is_removed_and_nothing_else() -> None:
    brain = Brain()
    applied(brain, SCORES, NIGHTLY, project="shop")
    applied(brain, models=(OTHER,))
    pruned = applied(brain, NIGHTLY, project="shop", prune=True)
    assert pruned == [("model", "digits", "unchanged"), ("batch", "nightly", "unchanged"), ("stream", "scores", "removed")]
    brain.tick(3)
    assert set(brain.store.load().feeds) == {"batch--nightly"}
    (event,) = [event for event in brain.store.audit("digits") if event.detail.get("action") == "removed"]
    assert (event.event, event.detail["name"]) == ("applied", "scores")
    rest = applied(brain, models=(), project="shop", prune=True)
    assert rest == [("batch", "nightly", "removed"), ("model", "digits", "removed")]
    brain.tick(6, each_s=RETIRE_GRACE_S)
    state = brain.store.load()
    assert (set(state.models), state.feeds) == ({"other"}, {})


def test_pruned_again_nothing_changes() -> None:
    brain = Brain()
    applied(brain, SCORES, project="shop")
    applied(brain, project="shop", prune=True)
    assert applied(brain, project="shop", prune=True) == [("model", "digits", "unchanged")]
    brain.tick(3)
    assert applied(brain, project="shop", prune=True) == [("model", "digits", "unchanged")]


def test_without_prune_it_stays() -> None:
    brain = Brain()
    applied(brain, SCORES, project="shop")
    assert applied(brain, project="shop") == [("model", "digits", "unchanged")]
    assert set(brain.store.load().feeds) == {"stream--scores"}


def test_a_dry_run_of_pruning_removes_nothing() -> None:
    brain = Brain()
    applied(brain, SCORES, project="shop")
    before = brain.store.load()
    assert ("stream", "scores", "removed") in applied(brain, project="shop", prune=True, dry_run=True)
    assert brain.store.load() == before


def test_it_belongs_to_the_project_it_was_last_applied_from() -> None:
    brain = Brain()
    applied(brain, SCORES, project="shop")
    assert applied(brain, SCORES) == [("model", "digits", "unchanged"), ("stream", "scores", "unchanged")]  # one file, by hand
    assert brain.store.load().models["digits"].project == "shop"
    assert applied(brain, SCORES, models=(), project="bank") == [("stream", "scores", "updated")]
    assert brain.call("feed.show", kind="stream", name="scores")["project"] == "bank"
    assert applied(brain, project="shop", prune=True) == [("model", "digits", "unchanged")]
    assert brain.store.load().feeds["stream--scores"].removal is None
    assert fields(brain, SCORES) == []


def test_a_change_of_project_starts_no_stream_anew() -> None:
    brain = Brain()
    brain.build(1)
    applied(brain, SCORES, project="shop")
    brain.tick(4)
    applied(brain, SCORES, project="bank")
    brain.tick(4)
    assert brain.streams.started == ["scores"]


def test_a_model_that_others_score_with_is_not_pruned_and_nothing_is() -> None:
    brain = Brain()
    applied(brain, project="shop")
    applied(brain, SCORES, models=(), project="bank")
    before = brain.store.load()
    with pytest.raises(Conflict, match="stream scores scores with it"):
        applied(brain, models=(OTHER,), project="shop", prune=True)
    assert brain.store.load() == before


def test_a_stream_that_moves_frees_its_model() -> None:
    brain = Brain()
    applied(brain, SCORES, models=(MODEL, OTHER), project="shop")
    moved = SCORES | {"model": "other"}
    assert applied(brain, moved, models=(OTHER,), project="shop", prune=True)[1:] == [
        ("stream", "scores", "updated"),
        ("model", "digits", "removed"),
    ]


@pytest.mark.parametrize(
    ("more", "what"), [({"prune": True}, "no project is named"), ({"project": "My Shop"}, "can't name a project")]
)
def test_a_project_has_a_name(more: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        applied(Brain(), **more)
