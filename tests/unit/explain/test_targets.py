"""Which number is explained, and what is refused in clear words."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.errors import BadInput, EngineFailure
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.port import RowsRefused
from deployments.explain.asking import read_options
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainMethod, ExplainOptions, ExplainScale

RANDOM = np.random.default_rng(7)
WEIGHTS = RANDOM.normal(size=(4, 3))
OTHERS = {"x": RANDOM.normal(size=(12, 4)).astype(np.float32)}
ROWS = {"x": RANDOM.normal(size=(2, 4)).astype(np.float32)}
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),),
    outputs=(
        TensorSpec(name="label", datatype=Datatype.BYTES, shape=(-1,)),
        TensorSpec(name="probabilities", datatype=Datatype.FP32, shape=(-1, 3)),
    ),
)
NAMES = np.array([b"cat", b"dog", b"owl"], dtype=np.object_)


def scores(tensors):
    logits = tensors["x"].astype(np.float64) @ WEIGHTS
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return {"label": NAMES[shares.argmax(axis=1)], "probabilities": shares}


def probabilities(tensors):
    return {"probabilities": scores(tensors)["probabilities"]}


ONLY_SCORES = SIGNATURE.model_copy(update={"outputs": SIGNATURE.outputs[1:]})


def explain(score=scores, rows=ROWS, signature=SIGNATURE, background=None, *, others=OTHERS, gradients=None, **options):
    return explain_rows(score, rows, signature, background or Background(others), ExplainOptions(**options), gradients=gradients)


def test_class_probabilities_are_explained_on_the_log_odds_of_the_answer():
    for place, found in enumerate(explain()):
        answer = scores(ROWS)
        shares = answer["probabilities"][place].astype(np.float64)
        best = int(shares.argmax())
        assert found.output == "probabilities"
        assert found.label == NAMES[best].decode()
        assert found.scale is ExplainScale.LOG_ODDS
        assert found.answer == pytest.approx(np.log(shares[best] / (1 - shares[best])), rel=1e-5)


def test_a_class_is_asked_for_by_its_name_or_its_place():
    named = explain(label="owl")[0]
    placed = explain(probabilities, signature=ONLY_SCORES, label=2)[0]
    np.testing.assert_array_equal(named.attributions["x"], placed.attributions["x"])
    assert (named.label, placed.label) == ("owl", 2)


def test_raw_is_the_probability_itself():
    found = explain(scale=ExplainScale.RAW, label="dog")[0]
    assert found.answer == pytest.approx(float(scores(ROWS)["probabilities"][0, 1]))


def test_log_odds_do_not_end_where_32_bits_round_to_one():
    def sure(tensors):
        rest = np.exp(-tensors["x"][:, :1].astype(np.float64) - 20)
        return {"probabilities": np.concatenate([1 - rest, rest], axis=1).astype(np.float32)}

    signature = ONLY_SCORES.model_copy(
        update={"outputs": (TensorSpec(name="probabilities", datatype=Datatype.FP32, shape=(-1, 2)),)}
    )
    found = explain(sure, signature=signature, label=0)[0]
    np.testing.assert_allclose(found.attributions["x"][0], ROWS["x"][0, 0] - OTHERS["x"][:, 0].mean(), atol=1e-5)
    np.testing.assert_array_equal(found.attributions["x"][1:], 0)


def test_one_probability_is_that_of_class_1_and_class_0_is_the_rest():
    def yes(tensors):
        return {"p": 1 / (1 + np.exp(-tensors["x"] @ WEIGHTS[:, 0]))}

    signature = SIGNATURE.model_copy(update={"outputs": (TensorSpec(name="p", datatype=Datatype.FP64, shape=(-1,)),)})
    one, zero = (explain(yes, signature=signature, label=label)[0] for label in (None, 0))
    assert one.label == 1
    np.testing.assert_allclose(one.attributions["x"], WEIGHTS[:, 0] * (ROWS["x"][0] - OTHERS["x"].mean(axis=0)), atol=1e-6)
    np.testing.assert_allclose(zero.attributions["x"], -one.attributions["x"])


def test_logits_are_raw_unless_log_odds_are_asked_for():
    def logits(tensors):
        return {"probabilities": (tensors["x"].astype(np.float64) @ WEIGHTS).astype(np.float32)}

    raw = explain(logits, signature=ONLY_SCORES)[0]
    assert raw.scale is ExplainScale.RAW
    odds, from_shares = (
        explain(score, signature=ONLY_SCORES, label=1, scale=ExplainScale.LOG_ODDS)[0] for score in (logits, probabilities)
    )
    np.testing.assert_allclose(odds.attributions["x"], from_shares.attributions["x"], atol=1e-5)


def test_a_version_that_names_nothing_but_the_class_is_explained_by_whether_it_would():
    signature = SIGNATURE.model_copy(update={"outputs": SIGNATURE.outputs[:1]})
    found = explain(lambda tensors: {"label": scores(tensors)["label"]}, signature=signature)[0]
    assert found.answer == 1
    assert found.label == scores(ROWS)["label"][0].decode()
    others = scores(OTHERS)["label"]
    assert found.baseline == pytest.approx(float(np.mean(others == scores(ROWS)["label"][0])))
    assert found.attributions["x"].sum() == pytest.approx(found.answer - found.baseline)


def test_text_is_swapped_whole():
    signature = Signature(
        inputs=(
            TensorSpec(name="purpose", datatype=Datatype.BYTES, shape=(-1,)),
            TensorSpec(name="amount", datatype=Datatype.INT64, shape=(-1,)),
        ),
        outputs=(TensorSpec(name="risk", datatype=Datatype.FP64, shape=(-1,)),),
    )

    def risk(tensors):
        return {"risk": 2.0 * np.array([item == b"car" for item in tensors["purpose"]]) + tensors["amount"] / 100}

    rows = {"purpose": np.array([b"car"], dtype=np.object_), "amount": np.array([500])}
    others = {"purpose": np.array([b"home", b"car", b"", b"home"], dtype=np.object_), "amount": np.array([100, 200, 300, 400])}
    found = explain_rows(risk, rows, signature, Background(others, classes=False), ExplainOptions())[0]
    assert float(found.attributions["purpose"]) == pytest.approx(1.5)
    assert float(found.attributions["amount"]) == pytest.approx(2.5)
    given = read_options({"baseline": {"purpose": "home", "amount": 100}}, signature)
    found = explain_rows(risk, rows, signature, None, given)[0]
    assert found.background_rows == 1
    assert float(found.attributions["purpose"]) == pytest.approx(2)


def test_a_counterfactual_is_the_other_class_with_few_changes():
    found = explain(method=ExplainMethod.COUNTERFACTUAL)[0]
    answer = scores(found.counterfactual | {"x": found.counterfactual["x"][None]})["label"][0]
    assert answer != scores(ROWS)["label"][0]
    different = np.flatnonzero(found.counterfactual["x"] != ROWS["x"][0])
    assert {f"x[{place}]" for place in different} == set(found.changed)
    assert 1 <= len(different) < 4
    assert found.completeness_error < 1e-9
    assert not found.too_rough
    wanted = next(name.decode() for name in NAMES if name not in (answer, scores(ROWS)["label"][0]))
    assert wanted.encode() in set(scores(OTHERS)["label"].tolist())
    other = explain(method=ExplainMethod.COUNTERFACTUAL, label=wanted)[0]
    assert scores({"x": other.counterfactual["x"][None]})["label"][0] == wanted.encode()


def test_gradients_of_a_softmax_agree_with_its_weights():
    def gradients(tensors, output, weights):
        assert output == "probabilities"
        shares = scores(tensors)["probabilities"].astype(np.float64)
        inner = shares * (weights - (weights * shares).sum(axis=1, keepdims=True))
        return {"x": inner @ WEIGHTS.T}

    # Two classes against each other: their log-odds are linear, so that every method gives the same.
    found = explain(gradients=gradients, method=ExplainMethod.GRADIENTS)[0]
    right = explain(method=ExplainMethod.EXACT)[0]
    assert found.completeness_error < 1e-3
    assert found.answer == right.answer
    np.testing.assert_allclose(found.attributions["x"], right.attributions["x"], atol=0.35)


REFUSED = [
    ({"label": "fox"}, "no such class", "cat, dog, owl"),
    ({"label": 7}, "no such class", "cat, dog, owl"),
    ({"output": "nothing"}, "no such output", "label, probabilities"),
    ({"output": "label", "label": "fox"}, "no row that was seen gets this class", "cat, dog, owl"),
    ({"output": "label", "scale": ExplainScale.LOG_ODDS}, "no log-odds", "raw"),
    ({"groups": {"a": ("y",)}}, "'y' is no feature; there are x[0] to x[3]", "name an input"),
    ({"groups": {"a": ("x[4]",)}}, "'x[4]' is no feature", "name an input"),
    ({"groups": {"a": ("x[1]",), "b": ("x",)}}, "in group a too", "leave it in one"),
    ({"blocks": 2}, "no input is an image", "explain.groups"),
    ({"baseline": {"x": np.zeros(3, np.float32)}}, "has shape [3], a row has [4]", "row's shape"),
    ({"baseline": {"x": np.zeros(4)}}, "is float64", "FP32"),
    ({"baseline": {"x": np.full(4, np.nan, np.float32)}}, "holds NaN", "no baseline"),
    ({"method": ExplainMethod.GRADIENTS}, "no torch program", "engine: torch"),
    ({"method": ExplainMethod.SHAPLEY, "evaluations": 5}, "4 features need 6 evaluations", "explain.groups"),
    ({"method": ExplainMethod.EXACT, "evaluations": 5}, "4 features need 16 evaluations", "method: shapley"),
    ({"method": ExplainMethod.OCCLUSION, "evaluations": 3}, "4 patches", "explain.groups"),
    ({"method": ExplainMethod.COUNTERFACTUAL, "label": "fox"}, "no background row has that class", "shapley"),
]


@pytest.mark.parametrize(("options", "words", "remedy"), REFUSED, ids=[words for _, words, _ in REFUSED])
def test_what_can_not_be_explained_is_refused_in_clear_words(options, words, remedy):
    with pytest.raises(BadInput) as refused:
        explain(**options)
    assert words in refused.value.what
    assert remedy in refused.value.remedy


def test_rows_without_an_answer_are_refused_by_row_before_anything_else():
    def lame(tensors):
        return {"label": NAMES[np.zeros(len(tensors["x"]), int)], "probabilities": scores(tensors)["probabilities"]}

    rows = {"x": np.array([[0, 0, 0, 0], [np.nan, 0, 0, 0]], np.float32)}
    with pytest.raises(RowsRefused) as refused:
        explain(lame, rows)
    assert list(refused.value.rows) == [1]
    assert "no number" in refused.value.what


def test_a_version_that_fails_on_mixtures_is_the_askers_matter_and_on_rows_its_own():
    def touchy(tensors):
        whole = (tensors["x"][:, :, None] == ROWS["x"].T[None]).any(axis=2).sum(axis=1)
        if ((whole > 0) & (whole < 4)).any():
            raise EngineFailure("the model failed: it is touchy")
        return scores(tensors)

    def broken(tensors):
        raise EngineFailure("the model failed: it is broken")

    with pytest.raises(BadInput, match="can't score rows mixed"):
        explain(touchy)
    with pytest.raises(EngineFailure, match="broken"):
        explain(broken)


def test_without_background_rows_a_baseline_must_be_given():
    with pytest.raises(BadInput, match=r"keeps no background rows .*: the document says so") as refused:
        explain(background=Background({}, why_none="the document says so"))
    assert "baseline for x" in refused.value.remedy
    zero = {"x": np.zeros((), np.float32)}
    assert explain(background=Background({}, why_none="the document says so"), baseline=zero)[0].background_rows == 1


def test_a_regression_has_no_counterfactual_and_of_several_numbers_one_is_named():
    def numbers(tensors):
        return {"probabilities": tensors["x"][:, :3] * 5}

    some = Background(OTHERS, classes=False)
    with pytest.raises(BadInput, match="tells no classes"):
        explain(numbers, signature=ONLY_SCORES, background=some, method=ExplainMethod.COUNTERFACTUAL)
    with pytest.raises(BadInput, match="3 numbers a row") as refused:
        explain(numbers, signature=ONLY_SCORES, background=some)
    assert "0 to 2" in refused.value.remedy
    found = explain(numbers, signature=ONLY_SCORES, background=some, label=1)[0]
    assert found.attributions["x"][1] == pytest.approx(5 * (ROWS["x"][0, 1] - OTHERS["x"][:, 1].mean()), rel=1e-4)


def test_an_image_is_cut_into_squares_where_its_pixels_are_too_many():
    signature = Signature(
        inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(-1, 3, 16, 16)),),
        outputs=(TensorSpec(name="y", datatype=Datatype.FP64, shape=(-1,)),),
    )

    def bright(tensors):
        return {"y": tensors["image"][:, :, 4:8, 8:12].astype(np.float64).sum(axis=(1, 2, 3))}

    rows, others = np.ones((1, 3, 16, 16), np.float32), np.zeros((2, 3, 16, 16), np.float32)
    background = Background({"image": others}, classes=False)
    found = explain_rows(bright, {"image": rows}, signature, background, ExplainOptions(evaluations=600))[0]
    assert found.method is ExplainMethod.SHAPLEY
    assert found.groups["image[4:8,8:12]"][0] == pytest.approx(48)
    inside = np.zeros((3, 16, 16))
    inside[:, 4:8, 8:12] = 1
    np.testing.assert_allclose(found.attributions["image"], inside)
    occluded = explain_rows(bright, {"image": rows}, signature, background, ExplainOptions(ExplainMethod.OCCLUSION))[0]
    assert occluded.attributions["image"][:, 5:7, 9:11].min() > 0
    assert occluded.attributions["image"][:, 10:, :].max() == 0


def test_a_large_image_is_explained_within_bounds():
    signature = Signature(
        inputs=(TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, 128, 128, 3)),),
        outputs=(TensorSpec(name="p", datatype=Datatype.FP32, shape=(-1, 2)),),
    )
    largest = 0

    def bright(tensors):
        nonlocal largest
        largest = max(largest, tensors["image"].nbytes)
        share = tensors["image"][:, 32:64, 32:64].mean(axis=(1, 2, 3)) / 255
        return {"p": np.stack([1 - share, share], axis=1).astype(np.float32)}

    random = np.random.default_rng(0)
    row = random.integers(150, 255, (1, 128, 128, 3), dtype=np.uint8)
    background = Background({"image": random.integers(0, 100, (3, 128, 128, 3), dtype=np.uint8)})
    for method, evaluations in (("auto", 1500), ("occlusion", 600), ("counterfactual", 100)):
        options = ExplainOptions(ExplainMethod(method), evaluations=evaluations)
        found = explain_rows(bright, {"image": row}, signature, background, options)[0]
        inside = np.abs(found.attributions["image"][32:64, 32:64]).sum()
        assert inside > (0.04 if method == "counterfactual" else 0.6) * np.abs(found.attributions["image"]).sum(), method
        assert found.evaluations <= evaluations + 64 + 1
    assert largest <= 16 << 20
    with pytest.raises(BadInput, match="49,152 features need 98,302 evaluations"):
        explain_rows(bright, {"image": row}, signature, background, ExplainOptions(ExplainMethod.SHAPLEY))


def test_options_are_read_from_plain_values():
    given = {
        "method": "shapley",
        "class": "owl",
        "scale": "raw",
        "baseline": {"x": [0, 1, 2, 3]},
        "groups": {"a": ["x[0]", "x[1]"]},
    }
    options = read_options(given, SIGNATURE)
    assert options.method is ExplainMethod.SHAPLEY
    assert options.label == "owl"
    assert options.baseline["x"].dtype == np.float32
    assert options.groups == {"a": ("x[0]", "x[1]")}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"methode": "shapley"}, "explain.methode"),
        ({"method": "magic"}, "explain.method"),
        ({"evaluations": 0}, "explain.evaluations"),
        ({"deadline_s": -1}, "explain.deadline_s"),
        ({"output": "nothing"}, "explain.output"),
        ({"baseline": {"y": 0}}, "explain.baseline.y"),
        ({"baseline": {"x": "zero"}}, "explain.baseline.x"),
        ({"baseline": {"x": [[0, 1], [2]]}}, "explain.baseline.x"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_field(given, field):
    with pytest.raises(BadInput) as refused:
        read_options(given, SIGNATURE)
    assert refused.value.where == field
    assert refused.value.remedy


@pytest.mark.parametrize("answer", [probabilities, lambda tensors: {"probabilities": scores(tensors)["probabilities"][:, :1]}])
def test_a_class_of_thousands_of_digits_is_refused_in_words(answer):
    width = answer(ROWS)["probabilities"].shape[1]
    outputs = (TensorSpec(name="probabilities", datatype=Datatype.FP32, shape=(-1, width)),)
    with pytest.raises(BadInput, match="class"):
        explain(answer, signature=SIGNATURE.model_copy(update={"outputs": outputs}), label="1" * 5000)
