"""What the README and the reference say is what the code takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.project.commands_page import commands_page
from headrace.project.documents import load_project
from headrace.project.metrics_page import metrics_page
from headrace.project.reference import reference

ROOT = Path(__file__).parents[3]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "project-files.md").read_text(encoding="utf-8") == reference(), "run `make reference`"


def test_the_page_of_commands_is_up_to_date() -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == commands_page(), "run `make reference`"


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == metrics_page(), "run `make reference`"


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.split("\n")[0] for example in EXAMPLES])
def test_the_readme_s_documents_are_taken(example: str, tmp_path: Path) -> None:
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    project = load_project([tmp_path / "example.yaml"])
    assert len(project.models) + len(project.feeds) + (project.access is not None) == 1


def test_the_readme_shows_each_kind() -> None:
    assert [re.search(r"kind: (\w+)", example)[1] for example in EXAMPLES] == ["Model", "Stream", "Batch"]  # type: ignore[index]


DOCUMENTS = sorted([*(ROOT / "examples").glob("*/*.yaml"), *(ROOT / "examples").glob("*/project/*.yaml")])


def test_the_published_models_documents_are_taken() -> None:
    project = load_project([ROOT / "bench" / "models" / "models.yaml"])
    assert len(project.models) >= 15
    assert all(model.build is not None for model in project.models)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_examples_documents_are_taken(path: Path) -> None:
    project = load_project([path])
    assert len(project.models) + len(project.feeds) + (project.access is not None) == 1
