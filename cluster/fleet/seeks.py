"""A stream that a seek has stopped runs again: once its mover has told the end, or where he never does. Pure."""

from __future__ import annotations

from dataclasses import replace

from cluster.state import CONTROLLER, AuditEvent, Feed, State, Wanted

SEEK_MOST_S = 600.0
"""A mover gives up long before. One that does not is refused by the stream's group, which has members again."""


def runs_again(feed: Feed, now_s: float) -> Feed:
    """The stream after its seek."""
    return replace(feed, wanted=Wanted.RUNNING, since_s=now_s, seek_s=None)


def end_lost_seek(state: State, key: str, now_s: float, events: list[AuditEvent]) -> State:
    """The state with that stream running again, where whoever moved it must be gone."""
    feed = state.feeds[key]
    if feed.seek_s is None or now_s - feed.seek_s < SEEK_MOST_S:
        return state
    why = f"nobody told within {SEEK_MOST_S:g} s how it ended: it runs again, from wherever its group stands"
    detail = {"kind": feed.spec.kind.value, "name": feed.spec.name, "reason": why}
    events.append(AuditEvent(now_s, feed.spec.model, None, "stream.seek failed", CONTROLLER, detail))
    return replace(state, feeds={**state.feeds, key: runs_again(feed, now_s)})
