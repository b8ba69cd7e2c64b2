"""Each example's one command, in a copy of the examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.gateway.door.haproxy import usable_haproxy
from tests.support.examples import run_example


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["credit", "tumours"])
def test_an_example_answers_alike_on_all_three_ways(tmp_path: Path, name: str) -> None:
    printed = run_example(name, tmp_path)
    assert "All three ways answer alike." in printed
    for way in ("HTTP", "stream", "batch"):
        assert f"{way}: " in printed


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here")
def test_each_team_is_told_of_its_own_model_and_no_other(tmp_path: Path) -> None:
    printed = run_example("access", tmp_path)
    assert "Everything is as it should be." in printed
    steps = (
        "Each team scores",
        "The other team's",
        "TLS",
        "What each sees",
        "A quota",
        "A client certificate",
        "An OpenID Connect",
    )
    for title in (*steps, "Another key", "No key any more"):
        assert f"\n{title}" in printed


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_a_model_is_sealed_a_customer_forgotten_and_what_was_changed_is_found(tmp_path: Path) -> None:
    printed = run_example("custody", tmp_path)
    assert "Everything is as it should be." in printed
    steps = ("A version that is sealed and signed", "One that is not", "An older signature", "A customer who is forgotten")
    for title in (*steps, "A changed record"):
        assert f"\n{title}" in printed
