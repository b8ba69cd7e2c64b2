"""Each example's one command: build, HTTP, stream and batch give the model's own answers. In a copy of the examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import run_example


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["credit", "tumours"])
def test_an_example_answers_alike_on_all_three_ways(tmp_path: Path, name: str) -> None:
    printed = run_example(name, tmp_path)
    assert "All three ways answer alike." in printed
    for way in ("HTTP", "stream", "batch"):
        assert f"{way}: " in printed
