"""Late labels at all times: what is counted of them, what is told, and the alarm."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.commands.documents import ModelDocument
from cluster.errors import Conflict
from cluster.quality.live import MARKS_KEPT, LiveQuality, VersionQuality
from cluster.quality.recent import REMEMBERED_AT_MOST, RecentLabels
from cluster.routing.routes import LabelledOutput
from cluster.watch.catalogue import CONFIDENCE, CONFIDENCES, LABEL_KEYS, LabelFault
from cluster.watch.reports import Buckets, MetricsReport, Series
from tests.support.brain import Brain
from tests.support.live_labels import LABELS, labels_of, tell_labels, with_labels

DAY_S = 86_400.0
CHECKED: dict[str, Any] = {
    "steps": [{"weight": 20, "bake_s": 1}, {"weight": 100, "bake_s": 1}],
    "checks": {"error_rate": None, "labels": {"margin": 0.05, "output": "output"}},
}


@pytest.fixture
def brain() -> Brain:
    """Version 1 serves, and no rollout is under way."""
    brain = Brain()
    brain.serve_first()
    brain.clock.now_s = 1_800_000_000.0
    return brain


def shown(brain: Brain, version: int) -> dict[str, Any]:
    seen = brain.call("quality.show", model="digits")["versions"]
    found: dict[str, Any] = next(one for one in seen if one["version"] == version)
    return found


def metrics(brain: Brain, name: str) -> dict[tuple[str, ...], float]:
    values = brain.call("metrics.list")["values"]
    return {tuple(labels): value for metric, labels, value in values if metric == f"headrace_{name}"}


def worse(brain: Brain) -> list[dict[str, Any]]:
    """What the console tells of its answers."""
    (model,) = brain.call("glance.show")["models"]
    return [one for one in model["wrong"] if "proven worse" in one["words"]]


def test_answers_get_keys_at_all_times_once_the_document_wants_labels(brain: Brain) -> None:
    assert brain.controller.table.routes["digits"].labels is None
    with_labels(brain)
    brain.tick()
    assert brain.controller.table.routes["digits"].labels == LabelledOutput(0, "output", by_class=True)


def test_labels_say_how_right_a_version_is(brain: Brain) -> None:
    with_labels(brain)
    brain.clock.now_s += 3 * 3600
    labels = labels_of(brain, 1, right=900, wrong=100, age_s=2 * 3600)
    assert brain.call("rollout.label", model="digits", labels=labels)["counted"] == 1000
    seen = shown(brain, 1)
    assert (seen["role"], seen["labelled"], seen["loss"]) == ("stable", 1000, 0.1)
    assert 0.06 < seen["low"] < 0.1 < seen["high"] < 0.15
    assert (seen["built"], seen["limit"], seen["alarm"]) == (None, None, None)  # nobody said how right it was at build
    assert 3600 < seen["delay_p50_s"] < 6 * 3600
    assert metrics(brain, "labels_total") == {("digits", "1"): 1000}
    assert metrics(brain, "label_loss_total") == {("digits", "1"): 100}
    assert metrics(brain, "quality_alarm") == {("digits", "1"): 0}
    (delays,) = (counts for name, _, counts, _ in brain.call("metrics.list")["histograms"] if "label_delay" in name)
    assert sum(delays) == 1000


def test_what_is_proven_worse_is_told_until_it_is_cleared_and_never_rolls_back(brain: Brain) -> None:
    built = with_labels(brain)
    tell_labels(brain, built, right=950, wrong=50)
    seen = shown(brain, built)
    assert seen["built"] == pytest.approx(0.05)
    assert 0.05 + 0.02 < seen["limit"] < 0.10
    assert seen["alarm"] is None
    brain.clock.now_s += 3600
    tell_labels(brain, built, right=200, wrong=100, first=1000)
    alarm = shown(brain, built)["alarm"]
    assert (alarm["labelled"], alarm["loss"]) == (300, pytest.approx(1 / 3))
    assert alarm["at_s"] == brain.clock.now_s
    (event,) = [one for one in brain.store.audit("digits") if one.event == "quality.alarm"]
    assert (event.actor, event.detail["version"]) == ("controller", built)
    (wrong,) = worse(brain)
    assert f"version {built} are proven worse than at build: accuracy 66.7% over 300 labels, accuracy 95.0%" in wrong["words"]
    assert (wrong["severity"], wrong["since_s"]) == ("waiting", alarm["at_s"])
    brain.revive()
    brain.tick()
    tell_labels(brain, built, right=500, wrong=0, first=2000)
    assert shown(brain, built)["alarm"] == alarm  # latched, also by a controller that began anew
    assert brain.call("model.show", model="digits")["quality"]["versions"][-1]["alarm"] == alarm
    assert len([one for one in brain.store.audit("digits") if one.event == "quality.alarm"]) == 1
    assert brain.controller.table.routes["digits"].stable == 1
    with pytest.raises(Conflict, match="no alarm to clear"):
        brain.call("quality.clear", model="digits", version=1)
    brain.call("quality.clear", model="digits")
    assert shown(brain, built)["alarm"] is None
    assert worse(brain) == []
    tell_labels(brain, built, right=190, wrong=10, first=3000)
    assert shown(brain, built)["alarm"] is None  # what is watched for has begun anew


def test_each_bad_label_is_counted_by_its_reason_and_takes_no_other_along(brain: Brain) -> None:
    with_labels(brain, within_s=90 * DAY_S)
    now = int(brain.clock.now_s)
    brain.clock.now_s += 100 * DAY_S
    late, soon = now + 1, int(brain.clock.now_s) - 60
    labels = [
        {"key": f"0/1/7@{soon}/in/0/1", "label": 7},
        {"key": f"0/1/7@{soon}/in/0/1", "label": 3},  # the same prediction
        {"key": f"0/1/7@{late}/in/0/2", "label": 7},
        {"key": f"0/1/7@{now - 10}/in/0/3", "label": 7},  # from before the document wanted labels
        {"key": f"0/9/7@{soon}/in/0/4", "label": 7},
        {"key": "order-17", "label": 7},
        {"key": f"0/1/7@{10**400}/in/0/1", "label": 7},
        {"key": f"0/1/7@{soon}/in/0/5", "label": "cat"},
        {"key": f"0/1/7@{soon}/in/0/6", "label": None},
        {"key": f"0/1/7@{soon}/in/0/7", "label": 6.5},  # no class
        {"key": f"0/1/7@{soon}/in/0/8", "label": float("nan")},
        {"key": f"0/1/nan@{soon}/in/0/9", "label": 7},  # the version's fault: counted, and wrong
    ]
    told = brain.call("rollout.label", model="digits", labels=labels, unreadable=3)
    assert (told["counted"], told["elsewhere"], told["refused"]) == (2, 1, 9)
    assert brain.call("quality.show", model="digits")["faults"] == {
        "unreadable": 3,
        "twice": 1,
        "late": 1,
        "redefined": 1,
        "unknown_version": 1,
        "no_key": 2,
        "wrong_type": 3,
        "not_finite": 1,
    }
    assert set(LabelFault) == set(brain.call("quality.show", model="digits")["faults"])
    assert metrics(brain, "label_faults_total")[("digits", "twice")] == 1
    assert (shown(brain, 1)["labelled"], shown(brain, 1)["loss"]) == (2, 0.5)


def test_a_label_told_twice_counts_once_and_a_resend_nothing_also_after_a_crash(brain: Brain) -> None:
    with_labels(brain)
    assert tell_labels(brain, 1, 10, 0, source="topic/0", sequence=9)["counted"] == 10
    assert tell_labels(brain, 1, 10, 0, source="topic/1", sequence=4)["elsewhere"] == 10  # another request, the same predictions
    brain.revive()
    assert tell_labels(brain, 1, 10, 0, source="topic/0", sequence=9)["elsewhere"] == 10
    # A reader that came back takes the topic up at its last commit: what was counted of that is left out, one by one.
    again = [{**one, "sequence": 5 + n} for n, one in enumerate(labels_of(brain, 1, 10, 0, first=100))]
    told = brain.call("rollout.label", model="digits", labels=again, source="topic/0", sequence=14)
    assert (told["counted"], told["elsewhere"]) == (5, 5)
    assert shown(brain, 1)["labelled"] == 15


def test_a_label_counts_for_the_rollout_and_for_its_version(brain: Brain) -> None:
    brain.apply(CHECKED)
    with_labels(brain)
    brain.call("rollout.start", model="digits", version=2, supersede=True)
    brain.tick(4)
    rollout = brain.rollout()
    assert rollout["state"] == "canary"
    assert brain.controller.table.routes["digits"].labels == LabelledOutput(rollout["id"], "output", by_class=True)
    labels = [{"key": f"{rollout['id']}/2/7@{int(brain.clock.now_s)}/in/0/{n}", "label": 7} for n in range(20)]
    labels += [{"key": f"0/1/7@{int(brain.clock.now_s)}/in/0/30", "label": 7}, labels[0]]
    told = brain.call("rollout.label", model="digits", labels=labels)
    assert (told["counted"], told["elsewhere"]) == (21, 1)
    assert (shown(brain, 1)["labelled"], shown(brain, 2)["labelled"]) == (1, 20)
    (check,) = brain.rollout()["checks"]
    assert check["observed"] == 20


def test_share_is_of_what_went_out_since_the_controller_counts(brain: Brain) -> None:
    with_labels(brain)
    brain.revive()
    keys = {Series(LABEL_KEYS.name, ("digits", "1")): 400.0}
    brain.controller.push(MetricsReport("gateway", 1, keys))
    brain.clock.now_s += 10
    tell_labels(brain, 1, 100, 0)
    brain.call("rollout.label", model="digits", labels=labels_of(brain, 1, 50, 0, first=500, age_s=9))
    brain.call("rollout.label", model="digits", labels=labels_of(brain, 1, 50, 0, first=900, age_s=11))  # of before it began
    seen = shown(brain, 1)
    assert seen["labelled"] == 150  # the last ones are also from before labels were wanted
    assert (seen["keys"], seen["share"]) == (400, 0.375)


def test_another_output_begins_anew_and_labels_of_old_answers_are_left_out(brain: Brain) -> None:
    with_labels(brain)
    tell_labels(brain, 1, 10, 0)
    brain.clock.now_s += 5
    old = labels_of(brain, 1, 5, 0, first=100)
    brain.clock.now_s += 5
    model = brain.call("model.show", model="digits")
    document = {"name": "digits", "rollout": model["plan"], "serving": model["serving"]}
    with pytest.raises(Conflict, match="no output 'other'"):
        brain.call("apply", models=[document | {"labels": {"output": "other"}}])
    # Two scores a row are no number.
    with pytest.raises(Conflict, match="no label can be held against that"):
        brain.call("apply", models=[document | {"labels": {"output": "output", "loss": "absolute", "scale": 1}}])
    brain.call("apply", models=[document | {"labels": {**LABELS, "tolerance": 0.1}}])
    assert shown(brain, 1)["labelled"] == 10  # another tolerance is no other loss
    brain.call("apply", models=[document])
    assert brain.call("quality.show", model="digits") == {"model": "digits", "labels": None, "versions": [], "faults": {}}
    brain.call("apply", models=[document | {"labels": LABELS}])
    told = brain.call("rollout.label", model="digits", labels=old)
    assert (told["counted"], told["refused"]) == (0, 5)


def test_a_document_judges_one_kind_of_loss() -> None:
    check = {"steps": [{"weight": 10}, {"weight": 100}], "checks": {"labels": {"margin": 0.05, "output": "output"}}}
    ModelDocument.model_validate({"name": "digits", "rollout": check, "labels": LABELS})
    with pytest.raises(ValidationError, match=r"labels.output and rollout.checks.labels.output differ"):
        ModelDocument.model_validate({"name": "digits", "rollout": check, "labels": {"output": "other"}})
    with pytest.raises(ValidationError, match="need a scale"):
        ModelDocument.model_validate({"name": "digits", "labels": {"output": "y", "loss": "absolute"}})


def test_memory_for_labels_is_bounded() -> None:
    recent = RecentLabels()
    for first in range(0, 3 * REMEMBERED_AT_MOST, 10_000):
        recent = recent.adding(range(first, first + 10_000))
        assert len(recent.young) + len(recent.old) <= REMEMBERED_AT_MOST
    assert 3 * REMEMBERED_AT_MOST - 1 in recent
    assert 2 * REMEMBERED_AT_MOST + REMEMBERED_AT_MOST // 2 in recent
    assert 0 not in recent
    quality = LiveQuality()
    for number in range(MARKS_KEPT + 50):
        quality = quality.marked(f"lines-{number}", 0).marked("topic/0", number)
    assert len(quality.marks) == MARKS_KEPT
    assert quality.marks["topic/0"] == MARKS_KEPT + 49
    assert VersionQuality().interval.high == 1.0


def test_what_labels_came_to_is_in_the_history(brain: Brain) -> None:
    with_labels(brain)
    tell_labels(brain, 1, 90, 10)
    brain.tick(5, each_s=10)
    lines = {line["figure"]: line["values"] for line in brain.call("metrics.history")["lines"]}
    assert lines["live_loss_low"][-1] == pytest.approx(shown(brain, 1)["low"])
    assert lines["live_loss_high"][-1] == pytest.approx(shown(brain, 1)["high"])


def test_without_labels_an_estimate_is_shown_and_nothing_acts_on_it(brain: Brain) -> None:
    buckets = len(CONFIDENCES) + 1
    sure = {"output": "output", "rows": [100] * buckets, "right": [50] * (buckets - 1) + [90]}
    built = with_labels(brain, quality={"rows": 1100, "accuracy": 0.54, "confidence": sure})
    brain.call("rollout.start", model="digits", version=built, plan="instant", supersede=True)
    brain.tick(8)
    assert brain.controller.table.routes["digits"].labels == LabelledOutput(0, "output", by_class=True, scores="output")
    counts = (0,) * (buckets - 1) + (1000,)
    seen = {Series(CONFIDENCE.name, ("digits", str(built))): Buckets(counts, 999.0)}
    brain.controller.push(MetricsReport("gateway", 1, histograms=seen))
    told = shown(brain, built)
    assert (told["estimate"], told["estimate_of"]) == (pytest.approx(0.1, abs=0.01), 1000)
    assert (told["labelled"], told["loss"], told["alarm"]) == (0, None, None)
