"""Versions by model: what the controller asks for at every tick."""

from __future__ import annotations

import pytest

from cluster.signature import Signature
from cluster.state import State
from cluster.versions import Version, VersionId, Versions


def version(model: str, number: int) -> Version:
    return Version(VersionId(model, number), "file:///a", "digest", "onnx", Signature(inputs=(), outputs=()), created_s=0.0)


def test_they_are_found_by_model_oldest_first_whatever_the_order_they_came_in() -> None:
    known = Versions([version("b", 1), version("a", 10), version("a", 9)])
    assert [found.id.number for found in known.of("a")] == [9, 10]
    assert (known.newest("a"), known.newest("b"), known.newest("c")) == (10, 1, 0)
    assert known.of("c") == []
    assert State(versions=known).versions_of("a") == [version("a", 9), version("a", 10)]


def test_what_adds_or_removes_one_leaves_the_others_and_the_first_as_they_were() -> None:
    one = Versions([version("a", 1)])
    two = one.adding(version("b", 1)).adding(version("a", 3)).adding(version("a", 2))
    assert [found.id.number for found in two.of("a")] == [1, 2, 3]
    assert len(one) == 1
    left = two.without(VersionId("a", 3)).without(VersionId("b", 1)).without(VersionId("c", 1))
    assert set(left) == {VersionId("a", 1), VersionId("a", 2)}
    assert left == {VersionId("a", 1): version("a", 1), VersionId("a", 2): version("a", 2)}
    assert VersionId("b", 1) not in left


@pytest.mark.parametrize("app", ["gateway", "stream--scores", "digits--v", "--v1", "digits--v1x", "digits--v-1"])
def test_what_is_no_versions_app_names_no_version(app: str) -> None:
    assert VersionId.of_app(app) is None


def test_an_app_names_its_version() -> None:
    assert VersionId.of_app("my-digits--v12") == VersionId("my-digits", 12)
