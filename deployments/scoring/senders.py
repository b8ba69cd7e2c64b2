"""Who sent the rows of a call, while a rollout counts that: as runs, never row by row. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deployments.scoring.rows import Rows

Shares = Mapping[str, tuple[int, int]]
"""By principal: how many rows of a call were his, and how many of them failed."""
NOBODY: Shares = {}


@dataclass(frozen=True, slots=True)
class Senders:
    """`names[i]` sent the rows before `ends[i]`, from where the run before ended; "" is whoever has no name."""

    names: tuple[str, ...]
    ends: tuple[int, ...]

    def of(self, rows: Rows) -> Senders:
        """Who sent these rows of them, which rise."""
        return self if len(rows) == self.ends[-1] else Senders(self.names, tuple(np.searchsorted(rows, self.ends).tolist()))

    def shares(self, failed: Collection[int] = (), blameless: Collection[int] = ()) -> Shares:
        """What each who has a name had in them, and how much of it `failed`; `blameless` ones, which failed too, are left out."""
        lost, out = self._by_run(failed), self._by_run(blameless)
        found: dict[str, tuple[int, int]] = {}
        before = 0
        for run, (name, end) in enumerate(zip(self.names, self.ends, strict=True)):
            if name:
                rows, errors = found.get(name, (0, 0))
                rows += end - before
                if lost:
                    errors += lost[run]
                if out:
                    rows, errors = rows - out[run], errors - out[run]
                found[name] = rows, errors
            before = end
        return found

    def _by_run(self, rows: Collection[int]) -> list[int]:
        """How many of these rows, by their places, are in each run; nothing where there are none."""
        if len(rows) == 0:
            return []
        places = np.fromiter(rows, np.intp, len(rows))
        found: list[int] = np.bincount(np.searchsorted(self.ends, places, side="right"), minlength=len(self.names)).tolist()
        return found


def shares(senders: Senders | None, rows: Rows, failed: Collection[int] = (), blameless: Collection[int] = ()) -> Shares:
    """Of the named rows of a call; nobody's where nobody is told apart. `failed` and `blameless` are places in `rows`."""
    return NOBODY if senders is None else senders.of(rows).shares(failed, blameless)


def joined_senders(parts: Sequence[tuple[Senders | None, int]]) -> Senders | None:
    """Of calls, of so many rows each, that are gathered in one."""
    if all(senders is None for senders, _ in parts):
        return None
    names: list[str] = []
    ends: list[int] = []
    begin = 0
    for senders, rows in parts:
        one = senders or Senders(("",), (rows,))
        names += one.names
        ends += [begin + end for end in one.ends]
        begin += rows
    return Senders(tuple(names), tuple(ends))
