"""Builds of real models on real rows: what their profiles say, and how a person reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from deployments.artifacts.profile import read_profile
from deployments.builder.pipeline import Built
from deployments.profiles.form import FeatureKind, Profile
from examples.credit.train import fit
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.project.documents import load_project
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.support.builds import refused, run

pytestmark = pytest.mark.usefixtures("builds_here")

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "project" / "model.yaml"


def profile_of(built: Built) -> Profile:
    assert built.artifact is not None
    found = read_profile(Path(built.artifact.uri))
    assert found is not None
    return found


def shown(built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """What `headrace model profile digits` says of it, asked of a real controller over fakes."""
    assert built.artifact is not None
    monkeypatch.setenv("COLUMNS", "180")  # whatever the terminal of whoever runs this
    brain = Brain()
    ask_brain(brain, monkeypatch)
    manifest = built.artifact.manifest
    brain.call(
        "version.register",
        model="digits",
        artifact_uri=built.artifact.uri,
        digest=built.artifact.digest,
        engine=manifest.engine,
        signature=manifest.signature.model_dump(mode="json"),
    )
    capsys.readouterr()
    code = main(["model", "profile", "digits", *words])
    told = capsys.readouterr()
    return code, told.out + told.err


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


def test_of_digits(
    tmp_path: Path, digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = run(tmp_path, digits)
    assert built.report.data["profile"] == "of 597 rows"
    found = profile_of(built)
    image = np.load(tmp_path / "test.npz")["image"].astype(np.float64)
    pixels = found.numbers["input.image"]
    np.testing.assert_allclose(pixels.mean, image.mean(axis=0))
    np.testing.assert_array_equal(pixels.counts.sum(axis=1), np.full(64, 597))
    assert (pixels.lowest[0], pixels.highest[0]) == (0, 0), "the first pixel is never inked"
    scores = found.numbers["output.probabilities"]
    assert scores.mean.sum() == pytest.approx(1, abs=1e-5)
    classes = found.summary.classes
    assert classes is not None
    assert set(classes.names) == {str(digit) for digit in range(10)}
    assert sum(classes.counts) == 597
    assert min(classes.counts) > 40

    code, screen = shown(built, monkeypatch, capsys)
    assert code == ExitCode.OK
    assert "profile of 597 rows\n" in screen
    assert "input image: 64 features" in screen
    assert "0.00% missing, 0 to 16, mean" in screen
    most = int(pixels.std.argmax())
    lines = [line for line in screen.splitlines() if "image[" in line]
    assert len(lines) == 12, "the features that vary most, not 64 lines"
    assert f"image[{most}]" in lines[0]
    assert "█" in lines[0]
    assert "class by score" in screen
    code, told = shown(built, monkeypatch, capsys, "1", "--json")
    assert code == ExitCode.OK
    first = json.loads(told)["tensors"][0]
    assert (first["name"], len(first["numbers"]["counts"]), len(first["numbers"]["counts"][0])) == ("image", 64, 256)


def test_of_real_credit_applications_with_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(str(tmp_path))
    spec = load_project([CREDIT]).models[0].build
    assert spec is not None
    section = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {
        "source": {"sklearn": "model.skops"},
        "evaluate": {"data": "test.parquet", "label": "creditability"},
        "profile": {"leave_out": ["job", "telephone"]},
        "optimise": False,
    }
    del section["train"]
    built = run(tmp_path, section)
    assert "of 300 rows, which are few (below 500)" in built.report.data["profile"]
    assert "without job, telephone" in built.report.data["profile"]
    found = profile_of(built)
    of = {tensor.name: tensor for tensor in found.summary.tensors}
    assert "job" not in of
    assert of["credit_amount"].kind is FeatureKind.NUMBERS
    assert found.numbers["input.credit_amount"].lowest[0] > 100
    purposes = of["purpose"].categories[0]
    assert sum(purposes.counts) + purposes.other == 300
    assert min(purposes.counts) >= 5, "a purpose of fewer people is told by no name"
    assert "radio/television" in purposes.names
    assert set(of["label"].categories[0].names) == {"good", "bad"}
    assert found.summary.classes is None, "the label says the class already"

    _, screen = shown(built, monkeypatch, capsys)
    assert "few, so that edges and shares are rough" in screen
    assert "job is left out" in screen
    assert "radio/television" in screen


def test_without_one(
    tmp_path: Path, digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for section, says in (
        (digits | {"profile": False}, "none, as the document says"),
        ({name: value for name, value in digits.items() if name != "evaluate"}, "none, since there are no rows"),
    ):
        built = run(tmp_path, section)
        assert built.artifact is not None
        assert says in built.report.data["profile"]
        assert not {"profile.json", "profile.npz"} & {path.name for path in Path(built.artifact.uri).iterdir()}
        code, told = shown(built, monkeypatch, capsys)
        assert code == ExitCode.NOT_FOUND
        assert "has no profile" in told


def test_a_name_that_is_none_is_refused(tmp_path: Path, digits: dict[str, Any]) -> None:
    error = refused(tmp_path, digits | {"profile": {"leave_out": ["picture"]}}, "no input or output is called picture")
    assert error.where == "profile.leave_out"
