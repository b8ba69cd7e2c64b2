"""One commit at a time of what is ready, and what its end means for the next."""

from __future__ import annotations

from functools import partial

from cluster.errors import Unreachable
from consumers.stream.commits import NOTHING, Commit, CommitPlan, next_plan
from consumers.stream.in_flight import InFlight
from consumers.stream.log.port import Log, Partition, RecordRefused
from consumers.stream.refusals import Refusals

# A transaction costs the broker several ms of work, whatever it holds: under a backlog the next begins this long after the last.
BACKLOG_COMMIT_EVERY_S = 0.1


class Committing:
    """Of one worker, used from its thread. A commit that takes longer than `limit_s` has failed."""

    def __init__(self, in_flight: InFlight, limit_s: float) -> None:
        self._in_flight, self._limit_s = in_flight, limit_s
        self._began_s = 0.0  # when the last one began
        self.under_way: Commit | None = None
        self.refusals = Refusals()

    def begin(self, log: Log, now_s: float, *, filling: bool) -> None:
        """Commits what is ready. `filling`: more is there to take, and room for it, so a commit soon after the last waits."""
        if self.under_way is not None or (filling and now_s < self._began_s + BACKLOG_COMMIT_EVERY_S):
            return
        plan = next_plan(self._in_flight, log.epoch, self.refusals.most_rows)
        if plan.outcomes:
            self._began_s = now_s
            self.under_way = Commit(log.commit(plan.outgoing, plan.upto), now_s, plan)
        else:  # every partition of them was taken from us
            self._in_flight.drop(plan.batches)

    def reap(self, log: Log, now_s: float) -> Commit | None:
        """The commit, once it is done. Raises Unreachable or RecordRefused where it failed: then `fail` must be called."""
        commit = self.under_way
        if commit is None:
            return None
        if not commit.future.done():
            if (took_s := now_s - commit.began_s) > self._limit_s:
                raise Unreachable(f"a commit took more than {took_s:.0f} s", where="stream", remedy="look at the broker")
            return None
        commit.future.result()
        self.under_way = None
        self._in_flight.drop(commit.plan.batches)
        self.refusals = self.refusals.after_commit(commit.plan, partial(owns, log))
        return commit

    def fail(self, error: Exception) -> CommitPlan:
        """Forgets the commit that is under way, if there is one: what it was to commit."""
        failed = self.under_way.plan if self.under_way is not None else NOTHING
        if isinstance(error, RecordRefused):
            self.refusals = self.refusals.after_refusal(error, failed)
        self.under_way = None
        return failed


def owns(log: Log, partition: Partition) -> bool:
    """Whether the partition is still this member's."""
    return log.epoch(partition) is not None
