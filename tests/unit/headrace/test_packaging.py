"""What an installed Headrace consists of."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_package_is_in_the_product() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tops = {name.split(".")[0] for name in listed}
    found = {".".join(path.parent.relative_to(ROOT).parts) for top in tops for path in (ROOT / top).rglob("__init__.py")}
    assert sorted(listed) == sorted(found)


def test_what_it_needs_of_others_stands_in_the_notices() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in ("dev", "bench"):
            needed += requirements
    names = {re.split(r"[^A-Za-z0-9_.-]", one)[0] for one in needed} - {"headrace"}
    told = set(re.findall(r"^\| ([\w.-]+) \|", (ROOT / "THIRD_PARTY_NOTICES.md").read_text(), re.MULTILINE)) - {"package"}
    assert names == told
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


def test_the_consoles_files_are_in_the_product() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "deployments.gateway.console"
    ]
    folder = ROOT / "deployments" / "gateway" / "console"
    packed = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    assert packed == {file for file in (folder / "static").rglob("*") if file.is_file()}
    assert {file.name for file in packed} >= {"index.html", "app.js", "LICENCES.txt"}
