"""Builds of real models on real rows: what their versions are explained with, and what the report says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from deployments.artifacts.background import read_background
from deployments.builder.page import page
from deployments.builder.pipeline import Built
from deployments.explain.form import Background, ExplainMethod
from tests.support.builds import refused, run

pytestmark = pytest.mark.usefixtures("builds_here")


def background_of(built: Built) -> Background:
    assert built.artifact is not None
    return read_background(Path(built.artifact.uri))


@pytest.fixture
def digits(tmp_path: Path) -> dict[str, Any]:
    """A folder's build section: a classifier of real digits, and 597 rows that it was not trained on."""
    image, label = load_digits(return_X_y=True)
    skops.io.dump(LogisticRegression(max_iter=300).fit(image[597:], label[597:]), tmp_path / "m.skops")
    np.savez(tmp_path / "test.npz", image=image[:597].astype(np.float32), label=label[:597])
    return {
        "source": {"sklearn": "m.skops"},
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": ["probabilities"],
        "evaluate": {"data": "test.npz", "label": "label"},
        "optimise": False,
    }


def test_of_digits(tmp_path: Path, digits: dict[str, Any]) -> None:
    built = run(tmp_path, digits)
    background = background_of(built)
    assert background.rows["image"].shape == (64, 64)
    held_out = np.load(tmp_path / "test.npz")["image"]
    assert (background.rows["image"][:, None] == held_out[None]).all(axis=2).any(axis=1).all(), "rows that were held out"
    assert background.classes
    assert background.works == (ExplainMethod.SHAPLEY, ExplainMethod.OCCLUSION, ExplainMethod.COUNTERFACTUAL)
    told = built.report.explain
    assert told is not None
    trials = {trial.method: trial for trial in told.methods}
    assert "torch program" in trials["gradients"].why
    assert trials["shapley"].completeness_error is not None
    assert trials["shapley"].completeness_error < 1e-5
    assert (trials["occlusion"].agreement or 0) > 0.9
    assert told.scale == "log_odds"
    assert len(told.importance) == 20
    assert told.features == 64
    assert told.importance_rows > 8
    strongest = told.importance[0]
    assert 0 < strongest.low < strongest.mean < strongest.high
    spread = held_out.std(axis=0)
    assert all(spread[int(one.feature[6:-1])] > 2 for one in told.importance[:5]), "pixels that are inked in some digits"
    shown = page(built.report)
    assert strongest.feature in shown
    assert "64 rows" in shown


def test_what_is_private_stays_out(tmp_path: Path, digits: dict[str, Any]) -> None:
    refused(tmp_path, digits | {"explain": {"leave_out": ["picture"]}}, "no input is called picture; there are image")
    without = background_of(run(tmp_path, digits | {"explain": {"leave_out": ["image"]}}))
    assert without.left_out == ("image",)
    assert not without.rows["image"].any()
    none = run(tmp_path, digits | {"explain": False})
    assert background_of(none).count == 0
    assert "explain: false" in background_of(none).why_none
    assert none.report.explain is not None
    assert none.report.explain.background == "none, as the document says"
