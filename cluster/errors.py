"""The one error tree.

HeadraceError
├── BadInput        a row, request or document is wrong: its sender must change it
│   └── TooLarge    it is over a size limit
├── NotFound        a named thing does not exist
├── Unauthenticated who asks did not say, or could not prove, who he is
├── Forbidden       who asks may not do this
├── Conflict        the thing exists or is busy, or the state does not allow this now
│   └── Fenced      another controller has the store; this one must not write
├── NoCapacity      nothing is free to do it now: retry later
│   └── OverQuota   who asks has asked for as much as he may: retry later
├── Unreachable     a broker, cluster or store is away: retry later
├── BadArtifact     a version's files are damaged or cannot be loaded
└── EngineFailure   the version failed on input that met its signature
"""

from __future__ import annotations

from typing import Any


class HeadraceError(Exception):
    """Says what was wrong, where, and what to do.

    `where` is a file, field, topic, model or address; `remedy` is an instruction.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    @property
    def kind(self) -> str:
        """Its name in the tree above, by which other processes know it; a class declared elsewhere is what it extends."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.remedy})" if self.remedy else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword arguments do not survive BaseException's own pickling, and errors cross processes.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(kind: type[HeadraceError], what: str, where: str, remedy: str) -> HeadraceError:
    return kind(what, where=where, remedy=remedy)


class BadInput(HeadraceError):
    """A row, request or document is wrong: its sender must change it."""


class TooLarge(BadInput):
    """A request or document is over a size limit."""


class NotFound(HeadraceError):
    """A named thing does not exist."""


class Unauthenticated(HeadraceError):
    """Who asks did not say, or could not prove, who he is."""


class Forbidden(HeadraceError):
    """Who asks may not do this."""


class Conflict(HeadraceError):
    """The thing exists or is busy, or the state does not allow this now."""


class Fenced(Conflict):
    """Another controller has the store; this one must not write."""


class NoCapacity(HeadraceError):
    """Nothing is free to do it now: retry later."""


class OverQuota(NoCapacity):
    """Who asks has asked for as much as he may: retry later."""


class Unreachable(HeadraceError):
    """A broker, cluster or store is away: retry later."""


class BadArtifact(HeadraceError):
    """A version's files are damaged or cannot be loaded."""


class EngineFailure(HeadraceError):
    """The version failed on input that met its signature."""


_LONGEST = 500


def in_words(fault: Exception) -> str:
    """A mistake of ours as `status` tells it, and what to do about it."""
    what = f"a fault of Headrace itself, {type(fault).__name__}: {str(fault)[:_LONGEST]}"
    return f"{what} (report it, with what the controller logged)"
