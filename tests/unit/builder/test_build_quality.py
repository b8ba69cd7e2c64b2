from __future__ import annotations

import math

import numpy as np
import pytest

from deployments.builder.evaluation.quality import quality


def test_classification_by_hand() -> None:
    reference = {"p": np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)}
    answers = {"p": np.array([[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]], np.float32)}
    found = quality(answers, reference, np.array([0, 1, 1]), "classification")
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.max_difference == pytest.approx(0.4)
    assert found.cross_entropy == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.5)) / 3, rel=1e-5)
    assert found.mse is None


def test_scores_that_are_no_probabilities_go_through_a_softmax() -> None:
    scores = {"s": np.array([[3.0, -1.0]], np.float32)}
    found = quality(scores, scores, np.array([0]), "classification")
    assert found.cross_entropy == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-4)


def test_regression_by_hand() -> None:
    reference = {"y": np.array([[0.0], [10.0]], np.float32)}
    answers = {"y": np.array([[0.1], [12.0]], np.float32)}
    found = quality(answers, reference, np.array([0.0, 10.0]), "regression")
    assert found.mse == pytest.approx((0.01 + 4) / 2, rel=1e-5)
    assert found.agreement == 0.5
    assert found.accuracy is None


def test_without_labels_only_the_comparison_is_left() -> None:
    answers = {"p": np.eye(3, dtype=np.float32)}
    found = quality(answers, answers, None, "classification")
    assert (found.accuracy, found.cross_entropy, found.agreement, found.max_difference) == (None, None, 1.0, 0.0)
