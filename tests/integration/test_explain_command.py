"""`headrace explain` on versions of real models: what it prints, the page, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from deployments.builder.pipeline import Built
from examples.credit.train import fit
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.project.documents import load_project
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.support.builds import run, steps_here

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "project" / "model.yaml"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A classifier of real digits, 8 by 8 pixels, as a build packages it."""
    import skops.io

    folder = tmp_path_factory.mktemp("digits")
    image, label = load_digits(return_X_y=True)
    skops.io.dump(LogisticRegression(max_iter=300).fit(image[597:], label[597:]), folder / "m.skops")
    np.savez(folder / "test.npz", image=image[:597].astype(np.float32).reshape(-1, 64), label=label[:597])
    section = {
        "source": {"sklearn": "m.skops"},
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": ["probabilities"],
        "evaluate": {"data": "test.npz", "label": "label"},
        "optimise": False,
    }
    with pytest.MonkeyPatch.context() as patch:
        steps_here(patch)
        return run(folder, section)


def folder_of(built: Built) -> str:
    assert built.artifact is not None
    return built.artifact.uri


def test_a_digit_by_bars_and_as_a_picture(digits: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = np.load(Path(folder_of(digits)).parents[2] / "test.npz")
    row = tmp_path / "row.json"
    row.write_text(json.dumps({"image": test["image"][3].tolist()}))
    page = tmp_path / "why.html"
    code = main(["explain", folder_of(digits), "--row", str(row), "--html", str(page), "--picture", "8x8", "--top", "5"])
    told = capsys.readouterr()
    assert code == ExitCode.OK, told.err
    assert f"log-odds of probabilities for class {int(test['label'][3])}" in told.out
    assert "by shapley" in told.out
    lines = [line for line in told.out.splitlines() if "image[" in line]
    assert len(lines) == 5
    assert "█" in lines[0]
    shown = page.read_text()
    assert shown.count("<figure>") == 3
    assert "image, both" in shown
    assert not re.search(r"(src|href)=|https?://|@import|url\(", shown), "nothing from outside"


def test_the_same_row_of_a_table_by_json_and_by_class(digits: Built, capsys: pytest.CaptureFixture[str]) -> None:
    test = Path(folder_of(digits)).parents[2] / "test.npz"
    arguments = ["explain", folder_of(digits), "--row", str(test), "--at", "3", "--json"]
    assert main([*arguments, "--class", "8", "--group", "left=image[0],image[8],image[16]"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["class"], told["scale"], told["background_rows"]) == (8, "log_odds", 64)
    assert len(told["attributions"]["image"]) == 64
    assert sum(told["attributions"]["image"]) == pytest.approx(told["answer"] - told["baseline"], abs=1e-4)
    assert list(told["groups"]) == ["left"]
    assert main([*arguments, "--class", "10"]) == ExitCode.BAD_INPUT
    assert "no such class" in capsys.readouterr().err
    assert main([*arguments, "--method", "gradients"]) == ExitCode.BAD_INPUT
    assert "no torch program" in capsys.readouterr().err


def test_a_row_that_is_none_is_refused(digits: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = tmp_path / "row.json"
    for content, says in (("{}", "has no image"), ('{"image": [1, 2]}', "has 2 values"), ("nothing", "is no JSON")):
        row.write_text(content)
        assert main(["explain", folder_of(digits), "--row", str(row)]) == ExitCode.BAD_INPUT
        assert says in capsys.readouterr().err
    assert main(["explain", folder_of(digits), "--row", str(tmp_path / "none.json")]) == ExitCode.NOT_FOUND
    capsys.readouterr()


def test_a_real_credit_application_of_a_registered_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], builds_here: None
) -> None:
    fit(str(tmp_path))
    spec = load_project([CREDIT]).models[0].build
    assert spec is not None
    section = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {
        "source": {"sklearn": "model.skops"},
        "evaluate": {"data": "test.parquet", "label": "creditability"},
        "optimise": False,
    }
    section.pop("train", None)
    built = run(tmp_path, section)
    assert built.artifact is not None
    brain = Brain()
    ask_brain(brain, monkeypatch)
    manifest = built.artifact.manifest
    brain.call(
        "version.register",
        model="credit",
        artifact_uri=built.artifact.uri,
        digest=built.artifact.digest,
        engine=manifest.engine,
        signature=manifest.signature.model_dump(mode="json"),
    )
    capsys.readouterr()
    arguments = ["explain", "credit", "--row", str(tmp_path / "test.parquet"), "--at", "7"]
    assert main(arguments) == ExitCode.OK
    told = capsys.readouterr().out
    assert re.search(r"log-odds of probabilities for class (good|bad)", told)
    assert "duration_in_month" in told
    assert re.search(r"purpose +\S", told), "text with its value"
    assert main([*arguments, "--method", "counterfactual"]) == ExitCode.OK
    assert "it would be another class with duration_in_month = " in capsys.readouterr().out
