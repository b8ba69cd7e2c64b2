"""What keeps the house one that a newcomer can read: rooms that are introduced and not too full, and one meaning a name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOPS = ("cluster", "deployments", "consumers", "headrace")
ROOMS = sorted({path.parent for top in TOPS for path in (ROOT / top).rglob("__init__.py")})
MODULES_MOST = 15
GENERATED = {"deployments/gateway/protocol/proto", "cluster/store/migrations", "cluster/store/migrations/versions"}


def _name(room: Path) -> str:
    return room.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("room", [room for room in ROOMS if _name(room) not in GENERATED], ids=_name)
def test_a_room_says_what_lives_in_it_and_is_not_too_full(room: Path) -> None:
    said = (room / "README.md").read_text(encoding="utf-8").splitlines()
    assert said[0].startswith(f"# {_name(room)}: ")
    assert 3 <= len(said) <= 15
    assert len(list(room.glob("*.py"))) - 1 <= MODULES_MOST


def test_what_a_readme_names_is_there() -> None:
    for readme in (ROOT / "README.md", *(room / "README.md" for room in ROOMS)):
        if not readme.exists():
            continue
        for path in re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", readme.read_text(encoding="utf-8")):
            near = [parent / path for parent in readme.parents if parent.is_relative_to(ROOT)]
            rooms = [ROOT / room / path for room in (*TOPS, "consumers/stream", "consumers/batch")]
            assert any(place.exists() for place in (*near, *rooms)), f"{readme.relative_to(ROOT)} names {path}"


def test_no_two_classes_share_a_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for top in TOPS:
        for file in sorted((ROOT / top).rglob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
