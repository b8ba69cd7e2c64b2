"""Late labels, from the key that goes out with an answer to the check that judges by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.access.callers import EVERYTHING, VISITOR, Caller
from cluster.commands.labels import LabelsTold, TellLabels
from cluster.errors import BadInput, Conflict, EngineFailure
from cluster.rollout.checks.labels import LabelCheck, Loss
from cluster.rollout.evidence import Counts
from cluster.rollout.labels import LabelKey, judge_labels, loss
from cluster.rollout.plan import Plan
from cluster.rollout.record import Rollout
from cluster.routing.routes import LabelledOutput
from cluster.signature import Datatype
from consumers.stream.log.port import Partition, Records
from consumers.stream.outgoing.answers import LABEL_KEY_HEADER, PREDICTION_HEADER, AnswerTemplate, output_records
from deployments.engines.datatypes import Array
from deployments.gateway.dataplane import DataPlane, InferCall
from deployments.gateway.lanes import BatchLimits, split
from deployments.gateway.protocol.request import InferRequest
from deployments.scoring.label_keys import keys_by_version, label_keys
from deployments.scoring.port import Scored
from deployments.scoring.rows import Answer, Part
from headrace.label_lines import LABELS_AT_ONCE, tell
from tests.support.brain import Brain
from tests.support.gateway_fakes import FakeScorer, table

WRONG = LabelCheck(margin=0.05, output="output")
PLAN: dict[str, Any] = {
    "steps": [{"weight": 20, "bake_s": 1}, {"weight": 100, "bake_s": 1}],
    "checks": {"error_rate": None, "labels": {"margin": 0.05, "output": "output"}},
}
BY_CLASS = LabelledOutput(rollout=4, name="p", by_class=True)


def absolute(scale: float = 10.0, kind: Loss = Loss.ABSOLUTE) -> LabelCheck:
    return LabelCheck(margin=0.05, output="output", loss=kind, scale=scale)


@pytest.mark.parametrize(
    ("check", "answer", "label", "lost"),
    [
        (WRONG, 3, 3, 0.0),
        (WRONG, 3, 4, 1.0),
        (absolute(), 2.0, 7.0, 0.5),
        (absolute(), 2.0, 70.0, 1.0),
        (absolute(kind=Loss.SQUARED), 2.0, 7.0, 0.25),
        (absolute(), float("nan"), 7.0, 1.0),
        (absolute(kind=Loss.SQUARED), float("inf"), 7.0, 1.0),
    ],
)
def test_what_an_answer_loses(check: LabelCheck, answer: float, label: float, lost: float) -> None:
    assert loss(check, answer, label) == lost


@given(st.floats(), st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-3, 1e6))
def test_a_loss_is_between_0_and_1(answer: float, label: float, scale: float) -> None:
    for check in (WRONG, absolute(scale), absolute(scale, Loss.SQUARED)):
        assert 0 <= loss(check, answer, label) <= 1


def test_a_check_that_can_have_no_bound_is_refused() -> None:
    for bad in ({"loss": "absolute"}, {"loss": "squared"}, {"loss": "wrong", "scale": 1.0}):
        with pytest.raises(ValidationError, match="need a scale"):
            LabelCheck.model_validate({"margin": 0.05, "output": "y", **bad})
    with pytest.raises(ValidationError, match="weight below 100"):
        Plan.model_validate({**PLAN, "steps": [{"weight": 100}]})


def test_each_label_is_judged_on_its_own() -> None:
    rollout = Rollout(4, "digits", 1, 2, Plan.model_validate(PLAN), 0.0, 0.0)
    labels = [
        ("4/2/7/in/0/12", 7.0),
        ("4/2/7/in/0/13", 8.0),
        ("4/1/3/in/0/14", 3.0),
        ("4/1/3/in/0/14", 3.0),  # the same again
        ("4/9/3/in/0/15", 3.0),  # a version that takes no part
        ("3/2/7/in/0/16", 7.0),  # an earlier rollout
        ("4/2/seven/in/0/17", 7.0),
        ("nonsense", 7.0),
        ("4/2/7/in/0/18", float("inf")),
    ]
    told = judge_labels(rollout, WRONG, dict(enumerate(labels, start=1)))
    assert told.counts == {2: Counts(labelled=2, loss=1.0), 1: Counts(labelled=1, loss=0.0)}
    assert len(told.refused) == 3
    assert told.refused == ("not a label key: label 7", "not a label key: label 8", "not finite: label 9")


@pytest.mark.parametrize("text", ["", "1/2/3", "a/2/3/x", "1/b/3/x", "1/2/c/x", f"1/2/3@{10**400}/x"])
def test_what_is_no_key_says_so(text: str) -> None:
    with pytest.raises(BadInput, match="not a label key"):
        LabelKey.parse(text)


def labelled(brain: Brain, version: int, answers: Sequence[int], label: int, **more: Any) -> dict[str, Any]:
    rollout = brain.rollout()["id"]
    labels = [{"key": f"{rollout}/{version}/{a}/in/0/{n}", "label": label} for n, a in enumerate(answers)]
    return brain.call("rollout.label", model="digits", labels=labels, **more)


@pytest.fixture
def brain() -> Brain:
    """A canary from version 1 to version 2 is under way, and waits for labels."""
    brain = Brain()
    brain.serve_first(PLAN)
    brain.build(2)
    brain.tick(4)
    assert brain.rollout()["state"] == "canary"
    return brain


def test_labels_decide_for_a_version_that_is_as_right_as_stable(brain: Brain) -> None:
    route = brain.controller.table.routes["digits"]
    assert route.labels == LabelledOutput(brain.rollout()["id"], "output", by_class=True)
    labelled(brain, 1, [7] * 900 + [1] * 100, 7)
    labelled(brain, 2, [7] * 900 + [1] * 100, 7)
    brain.tick(4)
    assert brain.rollout()["step"] == 1  # 10 % wrong on both sides: not sure yet to five points
    for _ in range(5):
        labelled(brain, 1, [7] * 4500 + [1] * 500, 7)
        labelled(brain, 2, [7] * 4500 + [1] * 500, 7)
    brain.tick(2)
    assert (brain.rollout()["step"], brain.rollout()["weight"]) == (2, 100)
    assert brain.controller.table.routes["digits"].labels is None  # stable answers no more: nothing to hold it against
    brain.tick(4)
    assert brain.rollout()["state"] == "promoted"


def test_labels_decide_against_a_version_that_is_more_often_wrong(brain: Brain) -> None:
    labelled(brain, 1, [7] * 500, 7)
    assert labelled(brain, 2, [7] * 350 + [1] * 150, 7) == {"counted": 500, "elsewhere": 0, "refused": 0, "reasons": []}
    assert "label loss: candidate" in brain.rollout()["checks"][0]["words"]
    brain.tick()
    assert brain.rollout()["state"] == "rolled_back"
    last = brain.call("rollout.history", model="digits")["audit"][-1]
    assert last["actor"] == "check label_loss"
    with pytest.raises(Conflict, match="no rollout is under way"):
        brain.call("rollout.label", model="digits", labels=[{"key": "1/1/1/x", "label": 1}])


def test_what_one_who_tells_labels_makes_up_rolls_nothing_back(brain: Brain) -> None:
    def told_by(name: str, version: int, answers: Sequence[int]) -> None:
        keys = [f"{brain.rollout()['id']}/{version}/{answer}/in/0/{n}" for n, answer in enumerate(answers)]
        payload = {"model": "digits", "labels": [{"key": key, "label": 7} for key in keys]}
        brain.controller.call("rollout.label", payload, Caller(name, EVERYTHING))

    for version in (1, 2):
        told_by("key ann", version, [7] * 450 + [1] * 50)
    told_by("key mallory", 2, [1] * 400)
    brain.tick()
    (check,) = brain.rollout()["checks"]
    assert (brain.rollout()["state"], check["observed"]) == ("canary", 900)
    assert check["words"].endswith("limit 5 %, but only what key mallory sends speaks against it: waiting")


def test_a_resend_counts_nothing_also_after_a_crash(brain: Brain) -> None:
    assert labelled(brain, 2, [7] * 10, 7, source="in/0", sequence=5)["counted"] == 10
    before = brain.rollout()
    brain.revive()
    brain.tick()
    assert labelled(brain, 2, [7] * 10, 7, source="in/0", sequence=5) == {
        "counted": 0,
        "elsewhere": 10,
        "refused": 0,
        "reasons": [],
    }
    assert brain.rollout()["checks"] == before["checks"]
    assert labelled(brain, 2, [7] * 10, 7, source="in/0", sequence=6)["counted"] == 10


def test_labels_need_a_check_that_wants_them() -> None:
    brain = Brain()
    brain.serve_first()
    brain.build(2)
    brain.tick(3)
    with pytest.raises(Conflict, match="no labels check"):
        brain.call("rollout.label", model="digits", labels=[{"key": "1/1/1/x", "label": 1}])


@pytest.mark.parametrize(
    ("output", "check", "words"),
    [
        ({"name": "scores", "datatype": "FP32", "shape": [-1, 2]}, {}, "no output 'output'"),
        ({"name": "output", "datatype": "BYTES", "shape": [-1, 1]}, {}, "no label can be held against that"),
        ({"name": "output", "datatype": "INT64", "shape": [-1, 2]}, {}, "no label can be held against that"),
        ({"name": "output", "datatype": "FP32", "shape": [-1, 2]}, {"loss": "absolute", "scale": 1}, "no label can be"),
    ],
)
def test_an_output_that_no_label_fits_is_refused(output: dict[str, Any], check: dict[str, Any], words: str) -> None:
    signature = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}], "outputs": [output]}
    brain = Brain()
    plan = {**PLAN, "start": "manual", "checks": {"labels": {"margin": 0.05, "output": "output", **check}}}
    brain.build(1, **signature)
    brain.apply(plan)
    brain.tick(4)
    brain.call("version.register", model="digits", artifact_uri="file:///2", digest="two", engine="onnx", signature=signature)
    with pytest.raises(Conflict, match=words):
        brain.call("rollout.start", model="digits", version=2)


def part(version: int, rows: list[int], values: Array, *, fair: bool = True, failed: tuple[int, ...] = ()) -> Part:
    return Part(version, np.array(rows), Answer({"p": values}, {row: EngineFailure("no") for row in failed}), fair)


def test_keys_are_given_to_fair_answers_only() -> None:
    outputs = {"p": np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)}
    parts = [
        part(1, [0, 2], outputs["p"][[0, 2]]),
        part(2, [1], outputs["p"][[1]], failed=(0,)),
        part(1, [3], outputs["p"][[3]], fair=False),
    ]
    assert label_keys(BY_CLASS, outputs, parts, 4) == ["4/1/1", "", "4/1/1", ""]
    assert label_keys(LabelledOutput(4, "q", by_class=True), outputs, parts, 4) == [""] * 4


@pytest.mark.parametrize(
    ("values", "by_class", "answers"),
    [
        (np.array([[2], [5]], np.int64), True, ["2", "5"]),
        (np.array([0.2, 0.9], np.float32), True, ["0", "1"]),
        (np.array([True, False]), True, ["1", "0"]),
        (np.array([[2.5], [-1.25]], np.float32), False, ["2.5", "-1.25"]),
        (np.array([[1, 2], [3, 4]], np.int64), True, None),
        (np.array([[b"cat"], [b"dog"]], np.object_), True, None),
    ],
)
def test_an_answer_is_a_class_or_a_number(values: Array, by_class: bool, answers: list[str] | None) -> None:
    wanted = LabelledOutput(4, "p", by_class=by_class)
    want = [f"4/2/{answer}" for answer in answers] if answers is not None else ["", ""]
    assert label_keys(wanted, {"p": values}, [part(2, [0, 1], values)], 2) == want


def test_a_key_may_say_when_its_answer_was_given() -> None:
    outputs = {"p": np.array([[7], [1], [3]], np.int64)}
    parts = [part(1, [0, 2], outputs["p"][[0, 2]]), part(2, [1], outputs["p"][[1]], fair=False)]
    keys = label_keys(BY_CLASS, outputs, parts, 3, 1_800_000_000.75)
    assert keys == ["4/1/7@1800000000", "", "4/1/3@1800000000"]
    assert LabelKey.parse(f"{keys[0]}/in/0/9") == LabelKey(4, 1, 7.0, "in/0/9", 1_800_000_000.0)
    assert keys_by_version(keys, parts) == {1: 2}
    assert keys_by_version([""] * 3, parts) == {}
    with pytest.raises(BadInput, match="not a label key"):
        LabelKey.parse("4/1/7@soon/in/0/9")


def test_keys_stay_with_their_rows_when_a_batch_is_cut() -> None:
    scored = Scored({"p": np.zeros((3, 1), np.float32)}, np.ones(3, np.int32), {}, ["a", "", "c"])
    assert [one.label_keys for one in split(scored, [1, 2])] == [["a"], ["", "c"]]


def test_on_a_stream_the_key_ends_in_the_prediction_id() -> None:
    records = Records(Partition("in", 3), 0, [10, 11], [b"a", b"b"], [b"", b""], [[], []], [0, 0])
    out = output_records(
        records,
        [0, 1],
        [b"x", b"y"],
        np.array([2, 1], np.int32),
        form=AnswerTemplate("digits", "out"),
        partitions=4,
        label_keys=["4/2/7", ""],
    )
    first, second = (dict(headers) for headers in out.headers)
    assert first[LABEL_KEY_HEADER] == b"4/2/7/" + (first[PREDICTION_HEADER] or b"")
    assert first[LABEL_KEY_HEADER] == b"4/2/7/in/3/10"
    assert LABEL_KEY_HEADER not in second
    assert LabelKey.parse("4/2/7/in/3/10") == LabelKey(4, 2, 7.0, "in/3/10")


class LabellingScorer(FakeScorer):
    """As while a rollout wants labels; the second row of a call must not be judged."""

    async def score(self, *arguments: Any, **more: Any) -> Scored:
        scored = await super().score(*arguments, **more)
        return replace(scored, label_keys=["" if row == 1 else "4/2/7" for row in range(len(scored.versions))])


@pytest.mark.anyio
async def test_over_http_each_row_has_a_key_of_its_own_or_nothing() -> None:
    scorer = LabellingScorer(table())
    plane = DataPlane(scorer, BatchLimits())
    request = InferRequest({"x": np.zeros((3, 2), np.float32)}, {"x": Datatype.FP32})
    answers = [await plane.infer(InferCall("pair"), request, VISITOR) for _ in range(2)]
    first, empty, third = str(answers[0].parameters["label_keys"]).split(",")
    assert empty == ""
    assert LabelKey.parse(first).prediction.endswith(".0")
    assert (LabelKey.parse(third).version, LabelKey.parse(third).answer) == (2, 7.0)
    assert answers[0].parameters != answers[1].parameters


def test_lines_are_sent_in_requests_that_name_themselves() -> None:
    sent: list[TellLabels] = []

    def send(request: TellLabels) -> LabelsTold:
        sent.append(request)
        return LabelsTold(counted=len(request.labels), elsewhere=0, refused=0)

    lines = [b'{"key": "4/2/7/in/0/%d", "label": 7}\n' % n for n in range(LABELS_AT_ONCE + 1)]
    bad = [b"\n", b"no json\n", b'{"key": "4/2/7/x"}\n', b'{"key": "4/2/7/x", "label": "cat"}\n']
    told = tell("digits", [*bad, *lines], send)
    assert (told.counted, told.refused, len(sent)) == (LABELS_AT_ONCE + 1, 3, 2)
    assert [reason.split(":")[0] for reason in told.reasons] == ["line 2", "line 3", "line 4"]
    assert sent[0].source != sent[1].source
    first = sent[0].source
    tell("digits", lines, send)
    assert sent[2].source == first
