"""What the README and the reference say is what the code takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from headrace.cli.main import ENTRIES, command_line
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


PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "ops").rglob("*.md"),
        *(ROOT / "bench").glob("*.md"),
    ]
)
SHOWN = re.compile(r"(?:^ {4,}(?:\$ )?(?:[A-Z_]+=\S+ )*|`(?:[A-Z_]+=\S+ )*|\$\()headrace ([^`\n)]+)", re.MULTILINE)
NO_COMMAND = {"sealed"}  # what a sealed version's keys are for, in the words of its format
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


def shown_commands(page: Path) -> Iterator[str]:
    """The command lines of ours that a page shows, without what a shell does with them."""
    for found in SHOWN.finditer(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        yield re.split(r"\s#|\s[|>&]|;", found[1].replace("\\|", "|"))[0]


def unknown_in(line: str) -> list[str]:
    """The words and options of a command line that no command has; `a|b` shows both."""
    word, *rest = line.split()
    if word.startswith("-") or word in NO_COMMAND:
        return []
    if word not in ENTRIES:
        return [word]
    commands = [command_of(word)]
    below = getattr(commands[0], "commands", {})
    if below and rest and re.match(r"[a-z]", rest[0]):
        named = rest[0].rstrip(",").split("|")
        if unknown := [each for each in named if each not in below]:
            return unknown
        commands = [below[each] for each in named]
    taken = {option for command in commands for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return [option for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", line) if option not in taken | {"--help"}]


@cache
def command_of(word: str) -> Any:
    """The command, or a group of them, as typer has it for Click."""
    return typer.main.get_command(command_line([word])).commands[word]  # type: ignore[attr-defined]


@pytest.mark.thorough
def test_the_commands_that_pages_show_are_there() -> None:
    unknown = {f"{page.relative_to(ROOT)}: {line}": unknown_in(line) for page in PAGES for line in shown_commands(page)}
    assert len(unknown) > 200
    assert {line: words for line, words in unknown.items() if words} == {}


def test_the_readme_s_table_has_every_command() -> None:
    rows = re.findall(
        r"^\| (`headrace .*?) \|", (ROOT / "README.md").read_text(encoding="utf-8").replace("\\|", "/"), re.MULTILINE
    )
    told = {word for row in rows for word in re.findall(r"`(?:headrace )?([a-z]+)", row)}
    assert ENTRIES.keys() - told == set()


def test_links_of_pages_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert len(links) > 100
    assert [f"{page.relative_to(ROOT)}: {link[0]}" for page, link in links if not leads(page, link[1], link[2])] == []


def leads(page: Path, path: str, anchor: str | None) -> bool:
    """Whether the file is there, and has a heading of that anchor."""
    to = page.parent / path if path else page
    if not to.exists() or anchor is None:
        return to.exists()
    headings = re.findall(r"^#+ (.*)$", to.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
