"""Model names as other servers take them, and the apps that are called by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BadInput
from cluster.versions import MODEL_PATTERN, VersionId, check_name

NAMES = st.from_regex(MODEL_PATTERN, fullmatch=True).filter(lambda name: "--" not in name)


@pytest.mark.parametrize("name", ["digits", "simple_string", "Churn.v2", "resnet50-v1.5", "A"])
def test_a_model_is_named_as_other_servers_name_it(name: str) -> None:
    assert check_name(name, what="model") == name


@pytest.mark.parametrize("name", ["", "a/b", "a b", "_a", "a.", "..", "a--b", "digits.explain", "gateway", "x" * 64, "é"])
def test_what_can_not_name_a_model_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="can't name a model"):
        check_name(name, what="model")


@pytest.mark.parametrize("name", ["Digits", "digits_in", "digits.in"])
def test_streams_keep_to_lower_case_and_dashes(name: str) -> None:
    with pytest.raises(BadInput, match="can't name a stream"):
        check_name(name, what="stream")


@given(NAMES, st.integers(1, 10**6))
def test_an_app_tells_its_version_and_no_two_share_one(name: str, number: int) -> None:
    version = VersionId(name, number)
    assert VersionId.of_app(version.app) == version
    assert not version.app.startswith(("stream--", "batch--", "gateway--"))
