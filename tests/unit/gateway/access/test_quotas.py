"""Quotas, by a clock of the test's own."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from cluster.access.callers import Caller, Quota, Role, grant_of
from cluster.errors import OverQuota
from deployments.gateway.access.quotas import QuotaBook
from tests.support.clock import Clock


def having(**limits: object) -> Caller:
    return Caller("key team", (grant_of([Role.SCORE]),), (Quota.model_validate({"models": ["fraud-*"], **limits}),))


def times(book: QuotaBook, caller: Caller, tries: int, rows: int = 1, model: str = "fraud-eu") -> int:
    """How many of so many requests are taken."""
    taken = 0
    for _ in range(tries):
        try:
            with book.taken(caller, model, rows):
                taken += 1
        except OverQuota:
            pass
    return taken


def test_requests_a_second() -> None:
    clock = Clock(0.0)
    book, caller = QuotaBook(clock), having(requests_per_s=5)
    assert times(book, caller, 20) == 5
    clock.now_s = 0.4
    assert times(book, caller, 20) == 2
    clock.now_s = 60.0
    assert times(book, caller, 20) == 5  # no more than a second's worth is kept


def test_rows_a_second_with_a_request_of_more_than_a_seconds_worth() -> None:
    clock = Clock(0.0)
    book, caller = QuotaBook(clock), having(rows_per_s=100)
    assert times(book, caller, 3, rows=250) == 1
    clock.now_s = 1.4
    assert times(book, caller, 1, rows=1) == 0  # it owes 150 rows
    clock.now_s = 1.6
    assert times(book, caller, 1, rows=1) == 1


def test_requests_under_way_and_each_model_for_itself() -> None:
    book, caller = QuotaBook(Clock(0.0)), having(under_way=2)
    with ExitStack() as under_way:
        for _ in range(2):
            under_way.enter_context(book.taken(caller, "fraud-eu", 1))
        with pytest.raises(OverQuota, match="2 of your requests are under way"), book.taken(caller, "fraud-eu", 1):
            pass
        assert times(book, caller, 1, model="fraud-us") == 1
        assert times(book, caller, 1, model="churn") == 1  # no quota is about it
    assert times(book, caller, 9) == 9


def test_one_that_failed_is_over_too_and_a_new_limit_holds_at_once() -> None:
    book = QuotaBook(Clock(0.0))
    with pytest.raises(ZeroDivisionError), book.taken(having(under_way=1), "fraud-eu", 1):
        raise ZeroDivisionError
    assert times(book, having(under_way=1), 1) == 1
    assert times(book, having(requests_per_s=3), 9) == 3
    assert times(book, having(requests_per_s=4), 9) == 4


def test_what_is_under_way_ends_in_the_quota_that_has_changed_meanwhile() -> None:
    book = QuotaBook(Clock(0.0))
    with ExitStack() as under_way:
        for _ in range(2):
            under_way.enter_context(book.taken(having(under_way=2), "fraud-eu", 1))
        assert times(book, having(under_way=3), 1) == 1
        assert times(book, having(under_way=2), 1) == 0
    with ExitStack() as under_way:
        for _ in range(3):
            under_way.enter_context(book.taken(having(under_way=3), "fraud-eu", 1))
