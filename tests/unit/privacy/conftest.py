"""Keys that files and fields are encrypted with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.keys.ring import VARIABLE
from deployments.privacy import parquet
from tests.unit.keys.test_keys import pair_in


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the pair `prod`, which the environment names; nothing is known of any pair before or after."""
    folder = tmp_path / "keys"
    pair_in(folder, "prod")
    monkeypatch.setenv(VARIABLE, f"file:{folder}")
    parquet._factory.cache_clear()
    yield folder
    parquet._factory.cache_clear()
