"""How the last hour and day went."""

from __future__ import annotations

import itertools

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message
from cluster.commands.rights import anybodys
from cluster.ports import FeedKind
from cluster.state import feed_key
from cluster.watch.history import Figure, HistoryPoint, HistorySubject, thinned


class AskHistory(Message):
    """Which lines: all, or those about one thing, or of one figure; and since when (Unix)."""

    subject: HistorySubject | None = None
    name: str = ""
    figure: str = ""
    since_s: float = Field(default=0.0, ge=0)


class LineView(Message):
    """One figure over time, such as `rows_s` of model `digits`: a number for each of the history's times, None where there was
    none."""

    subject: HistorySubject
    name: str
    figure: str
    values: tuple[float | None, ...]


class HistoryView(Message):
    """The last hour by ten seconds and the day before it by five minutes, oldest first: when each point ended (Unix), and
    the lines that the caller may see."""

    at_s: tuple[float, ...]
    lines: tuple[LineView, ...]


def _history(at: Context, asked: AskHistory) -> CommandResult:
    points = thinned([point for point in at.history() if point.at_s >= asked.since_s])
    apart = points[:1] + [point for before, point in itertools.pairwise(points) if not _alike(before, point)]
    known = sorted({figure for point in apart for figure in point.figures if _asked(asked, figure)})
    lines = [
        LineView(
            subject=figure.subject,
            name=figure.name,
            figure=figure.figure,
            values=tuple(point.figures.value(figure) for point in points),
        )
        for figure in known
        if _visible(at, figure)
    ]
    return CommandResult(at.state, HistoryView(at_s=tuple(point.at_s for point in points), lines=tuple(lines)))


def _alike(before: HistoryPoint, point: HistoryPoint) -> bool:
    """Whether they are known to have the same figures: mostly they do."""
    return point.figures.has_figures_of(before.figures)


def _asked(asked: AskHistory, figure: Figure) -> bool:
    return (
        (asked.subject is None or figure.subject is asked.subject)
        and (not asked.name or figure.name == asked.name)
        and (not asked.figure or figure.figure == asked.figure)
    )


def _visible(at: Context, figure: Figure) -> bool:
    if figure.subject is HistorySubject.MODEL:
        return at.caller.may(Role.VIEW, figure.name)
    feed = at.state.feeds.get(feed_key(FeedKind.STREAM, figure.name))
    return feed is not None and at.caller.may(Role.VIEW, feed.spec.model)


HISTORY = CommandEntry(
    "metrics.history", AskHistory, HistoryView, _history, "How the last hour and the last day went", anybodys, looks=True
)
COMMANDS = (HISTORY,)
