"""Unit tests are pure and fast: one that would start Ray fails at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import ray


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        # BaseException's child, so that no `except Exception` of the code under test hides it.
        pytest.fail("a unit test must not start Ray: move it to tests/integration, or use a fake")

    # Ray starts itself at the first remote call; that goes through `ray.init` as well.
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("ray._private.worker.init", refuse)
    monkeypatch.setattr("ray._private.node.Node.__init__", refuse)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Python's garbage collector is off: what ends must go with its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
