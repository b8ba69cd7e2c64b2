"""Who may take a store that another cluster's controller has: pure, by one clock of who asks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import Fenced, HeadraceError, Unreachable
from cluster.store.holder import DEAD_AFTER_S, RENEW_EVERY_S, Holder, StoreClaim

THEIRS = Holder("key a", "/home/a on head-a (10.0.0.1)", since_s=1_790_000_000.0, renewed_s=1_790_000_000.0)
WHERE = "postgresql://db/headrace"


def test_a_store_that_nobody_says_he_has_is_free() -> None:
    StoreClaim("key b").check(None, 0.0, where=WHERE)


def test_a_cluster_takes_its_own_store_back_at_once() -> None:
    StoreClaim("key a").check(THEIRS, 0.0, where=WHERE)


def refused(claim: StoreClaim, holder: Holder, from_s: float, seconds: float) -> set[type[HeadraceError]]:
    """How it is refused each second until then."""
    kinds = set[type[HeadraceError]]()
    for now_s in range(round(from_s), round(from_s + seconds)):
        with pytest.raises(HeadraceError) as told:
            claim.check(holder, float(now_s), where=WHERE)
        kinds.add(type(told.value))
    return kinds


def test_one_that_shows_no_life_is_waited_for_and_then_its_store_is_taken() -> None:
    claim = StoreClaim("key b")
    assert refused(claim, THEIRS, 100.0, DEAD_AFTER_S) == {Unreachable}
    claim.check(THEIRS, 100.0 + DEAD_AFTER_S, where=WHERE)


def test_while_the_store_is_away_nobody_is_taken_for_dead() -> None:
    claim = StoreClaim("key b")
    assert refused(claim, THEIRS, 100.0, 20.0) == {Unreachable}
    assert refused(claim, THEIRS, 500.0, DEAD_AFTER_S) == {Unreachable}
    claim.check(THEIRS, 500.0 + DEAD_AFTER_S, where=WHERE)


def test_one_that_lives_keeps_its_store_and_is_named() -> None:
    claim = StoreClaim("key b")
    with pytest.raises(Unreachable):
        claim.check(THEIRS, 100.0, where=WHERE)
    for beat in range(1, 20):  # for longer than it takes for dead
        renewed = replace(THEIRS, renewed_s=THEIRS.renewed_s + beat)
        with pytest.raises(Fenced) as told:
            claim.check(renewed, 100.0 + beat * RENEW_EVERY_S, where=WHERE)
    assert told.value.where == WHERE
    assert "has this store since 2026-09-21 14:13:20 UTC, and lives: /home/a on head-a (10.0.0.1)" in told.value.what
    assert all(way in told.value.remedy for way in ("end that one", "HEADRACE_STORE_URL", "--take-over"))


def test_one_that_lived_and_died_is_followed_by_who_was_refused() -> None:
    claim, renewed = StoreClaim("key b"), replace(THEIRS, renewed_s=THEIRS.renewed_s + 5)
    with pytest.raises(Unreachable):
        claim.check(THEIRS, 100.0, where=WHERE)
    assert refused(claim, renewed, 105.0, DEAD_AFTER_S) == {Fenced}
    claim.check(renewed, 105.0 + DEAD_AFTER_S, where=WHERE)


def test_clocks_of_two_clusters_need_not_agree() -> None:
    """Only that it changes counts: a clock that was set back is as much a sign of life."""
    claim = StoreClaim("key b")
    with pytest.raises(Unreachable):
        claim.check(THEIRS, 100.0, where=WHERE)
    with pytest.raises(Fenced):
        claim.check(replace(THEIRS, renewed_s=5.0), 105.0, where=WHERE)


def test_one_that_has_just_taken_it_lives() -> None:
    claim = StoreClaim("key b")
    with pytest.raises(Unreachable):
        claim.check(THEIRS, 100.0, where=WHERE)
    with pytest.raises(Fenced, match="/home/c on head-c"):
        claim.check(replace(THEIRS, cluster="key c", place="/home/c on head-c"), 101.0, where=WHERE)


def test_a_holder_has_many_tries_before_it_is_taken_for_dead() -> None:
    assert DEAD_AFTER_S >= 5 * RENEW_EVERY_S
