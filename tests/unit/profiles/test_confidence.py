"""How sure a version is, and what that says of how often it is right."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cluster.quality.estimate import estimated_loss
from cluster.routing.routes import LabelledOutput
from cluster.versions import BuiltConfidence, BuiltQuality
from cluster.watch.catalogue import CONFIDENCE, CONFIDENCES, LABEL_KEYS
from cluster.watch.reports import Series
from deployments.builder.evaluation.quality import quality
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters
from deployments.profiles.confidence import confidence, confidence_counts
from deployments.scoring.label_keys import SURE_ROWS, count_labelled, label_keys
from deployments.scoring.rows import Answer, Part


@pytest.mark.parametrize(
    ("scores", "sure"),
    [
        (np.array([[0.1, 0.9], [0.6, 0.4]]), [0.9, 0.6]),
        (np.array([[0.0, np.log(3.0)], [0.0, 0.0]]), [0.75, 0.5]),  # logits
        (np.array([0.2, 0.9], np.float32), [0.8, 0.9]),
        (np.array([[0.2], [0.9]]), [0.8, 0.9]),
        (np.array([[0.2], [3.0]]), None),
        (np.array([[np.nan, 1.0]]), None),
        (np.array([[1, 2]]), None),
        (np.zeros((0, 3)), None),
        (np.zeros((2, 3, 3)), None),
        (np.array([b"cat"], np.object_), None),
    ],
)
def test_how_sure(scores: Array, sure: list[float] | None) -> None:
    found = confidence(scores)
    assert found is None if sure is None else found is not None and found.tolist() == pytest.approx(sure)


def test_buckets_are_those_of_the_metric() -> None:
    meters, values = Meters("one"), np.array([0.1, 0.2, 0.55, 0.9995, 1.0])
    for value in values.tolist():
        meters.observe(CONFIDENCE, value, "m", "1")
    meters.observe_counts(CONFIDENCE, confidence_counts(values), float(values.sum()), "m", "2")
    report = meters.next_report()
    assert report is not None
    one, two = (report.histograms[Series(CONFIDENCE.name, ("m", number))] for number in "12")
    assert (one.counts, one.total) == (two.counts, pytest.approx(two.total))
    assert sum(two.counts) == 5


def test_the_estimate_follows_real_digits_that_become_harder_to_read() -> None:
    image, label = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(image[1000:], label[1000:])
    held, live = slice(0, 500), slice(500, 1000)
    told = quality(
        {"p": model.predict_proba(image[held])}, {"p": model.predict_proba(image[held])}, label[held], "classification"
    )
    assert told.confidence is not None
    built = BuiltQuality(told.rows, told.accuracy, confidence=BuiltConfidence("p", told.confidence.rows, told.confidence.right))
    random, built_loss = np.random.default_rng(4), 1 - (told.accuracy or 0)
    for noise in (0.0, 5.0):
        rows = image[live] + noise * random.normal(size=image[live].shape)
        sure = confidence(model.predict_proba(rows))
        assert sure is not None
        estimate, lost = estimated_loss(built, confidence_counts(sure)), float(np.mean(model.predict(rows) != label[live]))
        assert estimate is not None
        if not noise:
            assert abs(estimate - lost) < 0.03
        else:  # a model is too sure of what it has never seen: the estimate goes the right way, and not all of it
            assert lost > built_loss + 0.15
            assert estimate > built_loss + 0.03
            assert abs(estimate - lost) < abs(built_loss - lost)


def test_where_the_build_tells_nothing_there_is_no_estimate() -> None:
    buckets = len(CONFIDENCES) + 1
    sure = BuiltConfidence("p", (10,) * buckets, (5,) * buckets)
    counts = (0,) * (buckets - 1) + (100,)
    assert estimated_loss(BuiltQuality(100, 0.5, confidence=sure), counts) == pytest.approx(0.5)
    assert estimated_loss(BuiltQuality(100, 0.5), counts) is None
    assert estimated_loss(BuiltQuality(100, 0.5, confidence=sure), (0,) * buckets) is None
    assert estimated_loss(BuiltQuality(100, 0.5, confidence=sure), (1, 2)) is None
    empty = BuiltConfidence("p", (0,) * buckets, (0,) * buckets)
    assert estimated_loss(BuiltQuality(100, 0.9, confidence=empty), counts) == pytest.approx(0.1)


def test_a_call_s_rows_are_looked_at_up_to_a_bound() -> None:
    rows = 5 * SURE_ROWS
    scores = np.tile(np.array([[0.1, 0.9]], np.float32), (rows, 1))
    parts = [
        Part(1, np.arange(rows - 10), Answer({"p": scores[:-10]})),
        Part(2, np.arange(rows - 10, rows), Answer({"p": scores[-10:]}), fair=False),
    ]
    wanted, meters = LabelledOutput(0, "p", by_class=True, scores="p"), Meters("one")
    keys = label_keys(wanted, {"p": scores}, parts, rows)
    count_labelled(meters, "m", wanted, keys, {"p": scores}, parts)
    report = meters.next_report()
    assert report is not None
    assert report.counters == {Series(LABEL_KEYS.name, ("m", "1")): rows - 10}
    ((series, seen),) = report.histograms.items()
    assert series == Series(CONFIDENCE.name, ("m", "1"))
    assert SURE_ROWS // 2 < sum(seen.counts) <= SURE_ROWS
    assert seen.total == pytest.approx(0.9 * sum(seen.counts))
