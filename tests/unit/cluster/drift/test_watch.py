"""Drift in the controller: counts become alarms, which latch, outlive it, and are cleared."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cluster.access.callers import Caller, Grant, Role
from cluster.drift.watch import AT_ONCE
from cluster.errors import BadInput, Forbidden, NotFound
from cluster.schedule.jobs import RunCommand
from tests.support.brain import SIGNATURE, Brain
from tests.support.drift import normal
from tests.support.watched import ROWS, TICK_S, Watched


def test_rows_like_the_profile_raise_no_alarm_and_others_raise_one_that_names_the_feature() -> None:
    watched = Watched()
    watched.tell(times=20)
    assert watched.alarmed() == []
    (version,) = watched.status()["versions"]
    assert (version["rows"], version["profile_rows"], version["features"]) == (20_000, 5000, 3)
    watched.tell(0.0, 0.0, 1.0, times=3)
    (alarm,) = watched.status()["alarms"]
    assert (alarm["version"], alarm["size"]["feature"], alarm["size"]["side"], alarm["kind"]) == (1, "x[2]", "input", "input")
    assert alarm["since_s"] <= watched.brain.clock.now_s
    assert alarm["size"]["psi"] > 0.1
    assert 0 < alarm["size"]["js"] < 1
    assert len(alarm["size"]["before"]) == len(alarm["size"]["after"]) == 16
    assert "of the last rows" in alarm["words"]
    told = [event for event in watched.brain.store.audit("digits") if event.event == "drift"]
    assert [event.detail["features"] for event in told] == [["input x[2]"]]


def test_an_alarm_latches_outlives_the_controller_and_its_feature_alone_begins_anew_when_cleared() -> None:
    watched = Watched()
    watched.tell(2.0, 0.0, 2.0, times=3)
    assert watched.alarmed() == ["x[0]", "x[2]"]
    watched.tell(times=3)
    assert watched.alarmed() == ["x[0]", "x[2]"], "it goes away by itself"
    watched.brain.revive()
    watched.tell(times=1)
    assert watched.alarmed() == ["x[0]", "x[2]"], "it does not outlive the controller"
    assert watched.brain.call("drift.clear", model="digits", feature="x[0]") == {"cleared": 1}
    watched.tell(times=3)
    assert watched.alarmed() == ["x[2]"]
    watched.tell(2.0, 0.0, 0.0, times=3)
    assert watched.alarmed() == ["x[0]", "x[2]"], "a cleared feature is not watched afresh"
    with pytest.raises(NotFound, match="no such alarm stands"):
        watched.brain.call("drift.clear", model="digits", feature="x[1]")
    assert watched.brain.call("drift.clear", model="digits") == {"cleared": 2}


def test_a_report_counts_once_and_its_reference_is_asked_for_where_it_is_not_known() -> None:
    watched = Watched()
    controller, values = watched.brain.controller, normal(watched.rng, ROWS, 3)
    with pytest.raises(NotFound, match="no reference"):
        controller.push(watched.rows.report(values, 1, known=True))
    controller.push(watched.rows.report(values, 1))
    controller.push(watched.rows.report(values, 1))  # a resend
    controller.push(watched.rows.report(values, 2, known=True))
    controller.push(watched.rows.report(values, 1, source="another", known=True))
    whole = watched.rows.report(values, 3, known=True)
    with pytest.raises(BadInput, match="rows, hits"):
        controller.push(replace(whole, rows=whole.rows[:2], hits=whole.hits[:2]))
    with pytest.raises(BadInput, match="hits"):
        controller.push(replace(whole, hits=whole.hits + ROWS))
    watched.brain.tick(each_s=TICK_S)
    assert watched.status()["versions"][0]["rows"] == 3 * ROWS


@pytest.mark.parametrize("jump_s", [1e7, -1e7])
def test_a_clock_that_jumps_brings_one_tick_and_no_alarm(jump_s: float) -> None:
    watched = Watched()
    watched.tell(times=3)
    watched.brain.clock.now_s += jump_s
    watched.tell(times=3)
    assert watched.alarmed() == []
    watched.tell(2.0, 0.0, 0.0, times=2)
    assert watched.alarmed() == ["x[0]"]


def test_what_is_given_the_candidate_holds_its_promotion_until_it_is_cleared() -> None:
    watched = Watched(on_drift="hold")
    watched.brain.build(2)
    watched.brain.tick(4)
    watched.tell(0.0, 2.0, 0.0, version=2, times=2)
    watched.prove()
    rollout = watched.brain.rollout()
    assert rollout["state"] == "canary"
    assert "version 2 is given rows unlike its profile's: x[1]" in rollout["reason"]
    assert [event.event for event in watched.brain.store.audit("digits")][-1] == "held"
    watched.brain.call("drift.clear", model="digits")
    watched.brain.tick(2)
    assert watched.brain.rollout()["state"] == "promoted"


def test_drift_of_the_stable_version_holds_nothing_and_nothing_is_held_where_it_is_not_asked_for() -> None:
    for drift, version in (({"on_drift": "hold"}, 1), ({}, 2)):
        watched = Watched(**drift)
        watched.brain.build(2)
        watched.brain.tick(4)
        watched.tell(0.0, 2.0, 0.0, version=version, times=2)
        assert watched.alarmed() == ["x[1]"]
        watched.prove()
        assert watched.brain.rollout()["state"] == "promoted"


def test_a_command_is_run_once_an_episode_also_where_the_cluster_loses_its_memory() -> None:
    watched = Watched(on_drift={"run": ["python", "train.py", "a b; c"]})
    watched.tell(2.0, 0.0, 0.0, times=3)
    watched.tell(2.0, 2.0, 0.0, times=3)
    (job,) = watched.brain.jobs.submitted
    assert isinstance(job, RunCommand)
    assert job.job.startswith("drift-digits-v1-")
    assert job.command == ("python", "train.py", "a b; c")
    watched.brain.tick(2)
    watched.brain.jobs.forget()
    watched.tell(2.0, 2.0, 0.0, times=2)
    assert len(watched.brain.jobs.submitted) == 1
    assert "drift ran" in [event.event for event in watched.brain.store.audit("digits")]
    watched.brain.call("drift.clear", model="digits")
    watched.tell(2.0, 2.0, 0.0, times=3)
    assert len(watched.brain.jobs.submitted) == 2


def test_who_may_deploy_but_is_no_admin_brings_in_no_command() -> None:
    brain = Brain()
    deployer = Caller("ci", (Grant(roles=(Role.DEPLOY,), models=("*",)),))
    document = {"name": "digits", "drift": {"on_drift": {"run": "python train.py"}}}
    with pytest.raises(Forbidden, match="admins"):
        brain.controller.call("apply", {"models": [document]}, deployer)
    brain.call("apply", models=[document])
    brain.controller.call("apply", {"models": [document]}, deployer)  # as an admin has it
    with pytest.raises(Forbidden):
        brain.controller.call("apply", {"models": [{**document, "drift": {"on_drift": {"run": "sh"}}}]}, deployer)


def test_alarms_go_with_their_model() -> None:
    watched = Watched()
    watched.tell(2.0, 0.0, 0.0, times=3)
    watched.brain.call("model.delete", model="digits")
    watched.brain.tick(20, each_s=30)
    assert watched.brain.store.load().alarms == {}


def test_of_many_versions_some_are_looked_at_in_each_tick_and_all_within_ten_seconds() -> None:
    watched, many = Watched(), 4 * AT_ONCE
    brain, names = watched.brain, [f"model-{number}" for number in range(many)]
    about = {"artifact_uri": "u", "digest": "d", "engine": "onnx", "signature": SIGNATURE}
    brain.call("apply", models=[{"name": name} for name in names])
    for name in names:
        brain.call("version.register", model=name, **about)
    brain.tick(4)
    report = watched.rows.report(normal(watched.rng, ROWS, 3), 1)
    for name in names:
        brain.controller.push(replace(report, model=name, source=name))
    looked = [0]
    brain.tick(each_s=TICK_S)
    for _ in range(20):
        looks = brain.call("drift.status")["models"]
        looked.append(sum(bool(version["rows"]) for model in looks for version in model["versions"]))
        brain.tick(each_s=0.5)
    steps = [after - before for before, after in itertools.pairwise(looked)]
    assert max(steps) <= AT_ONCE
    assert looked[-1] == many
