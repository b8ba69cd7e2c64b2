"""What is left of each caller's quotas, in this gateway."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.access.callers import Caller, Quota
from cluster.access.quotas import Bucket
from cluster.errors import OverQuota

KNOWN_MOST = 10_000  # pairs of a caller and a model; who has not called for longest is forgotten, with full buckets


@dataclass(slots=True)
class _Account:
    quota: Quota
    requests: Bucket | None
    rows: Bucket | None
    under_way: int = 0


class QuotaBook:
    """Used on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: OrderedDict[tuple[str, str], _Account] = OrderedDict()

    @contextmanager
    def taken(self, caller: Caller, model: str, rows: int) -> Iterator[None]:
        """While a request of so many rows is under way. Raises OverQuota."""
        quota = caller.quota(model)
        if quota is None:
            yield
            return
        account = self._account(caller.name, model, quota)
        where, now_s = f"model {model}", self._clock()
        if quota.under_way is not None and account.under_way >= quota.under_way:
            raise OverQuota(f"{quota.under_way} of your requests are under way", where=where, remedy="await some, then retry")
        for bucket, what in ((account.requests, "requests"), (account.rows, "rows")):
            if bucket is not None and bucket.fill(now_s) <= 0:
                raise OverQuota(f"you may ask for {bucket.rate_per_s:g} {what} a second", where=where, remedy="retry later")
        if account.requests is not None:
            account.requests.take(1)
        if account.rows is not None:
            account.rows.take(rows)
        account.under_way += 1
        try:
            yield
        finally:
            account.under_way -= 1

    def _account(self, caller: str, model: str, quota: Quota) -> _Account:
        known = self._accounts.get((caller, model))
        if known is None or known.quota != quota:
            now_s = self._clock()
            requests, rows = (
                None if rate is None else Bucket.full(rate, now_s) for rate in (quota.requests_per_s, quota.rows_per_s)
            )
            if known is None:
                known = self._accounts[caller, model] = _Account(quota, requests, rows)
            else:  # the same account: what is under way ends in it
                known.quota, known.requests, known.rows = quota, requests, rows
            while len(self._accounts) > KNOWN_MOST:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end((caller, model))
        return known
