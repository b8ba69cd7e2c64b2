"""Rows dealt out to versions, before anybody is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.routing.split import to_candidate
from deployments.scoring.call import begin_call
from tests.support.models import INPUT, rows
from tests.support.routing import route, target

ARTIFACT = ("nowhere", "0" * 64, None)
RANDOM = np.random.default_rng(0)


@given(
    count=st.integers(0, 80),
    weight=st.sampled_from([0, 500, 3000, 9000, 10_000]),
    shadow=st.sampled_from([0, 5000]),
    bad=st.sets(st.integers(0, 79), max_size=5),
    donated=st.booleans(),
)
def test_every_good_row_goes_where_its_key_says(count: int, weight: int, shadow: int, bad: set[int], donated: bool) -> None:
    image = rows(count)
    image[[row for row in bad if row < count]] = np.nan
    sent = image.copy()
    keys = [b"key %d" % row for row in range(count)]
    split = route(target(1, ARTIFACT), target(2, ARTIFACT), candidate=2, weight=weight, shadow=shadow, stage="r1.1", salt=7)
    call = begin_call(split, {INPUT: sent}, keys, version=None, donated=donated, end_s=0.0, random=RANDOM)

    whose = np.arange(count) if call.order is None else call.order
    np.testing.assert_array_equal(sent, image[whose])
    assert donated or call.order is None
    theirs = to_candidate(keys, salt=7, weight=weight, random=RANDOM)
    good = ~np.isnan(image).any(axis=1)
    assert sorted(whose[call.theirs].tolist()) == np.flatnonzero(theirs & good).tolist()
    assert sorted(whose[call.own].tolist()) == np.flatnonzero(~theirs & good).tolist()
    for rising in (call.own, call.theirs):
        assert (np.diff(rising) > 0).all()
    assert list(call.keys) == ([keys[row] for row in whose[call.own].tolist()] if shadow else [])


@pytest.mark.parametrize("donated", [False, True])
def test_a_pinned_call_is_never_split(donated: bool) -> None:
    split = route(target(1, ARTIFACT), target(2, ARTIFACT), candidate=2, weight=5000, stage="r1.1", salt=7)
    image = rows(50)
    call = begin_call(split, {INPUT: image}, None, version=2, donated=donated, end_s=0.0, random=RANDOM)
    assert (call.target.version, call.pinned, call.candidate) == (2, True, None)
    assert call.own.tolist() == list(range(50))
    assert len(call.theirs) == 0
    np.testing.assert_array_equal(image, rows(50))
