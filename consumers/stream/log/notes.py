"""A stream's notes, kept by the controller with the stream's document: they outlive its workers, and its group."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cluster.commands.feeds import FeedNotes
from cluster.control_plane import ControlPlane


class ControlledNotes:
    """See `consumers.stream.log.starts.Notes`. Not to be called on an event loop's thread."""

    def __init__(self, control: ControlPlane, stream: str) -> None:
        self._control, self._stream = control, stream

    def load(self) -> Mapping[str, str]:
        """See Notes."""
        return self._ask({})

    def add(self, notes: Mapping[str, str]) -> None:
        """See Notes."""
        self._ask(notes)

    def _ask(self, notes: Mapping[str, str]) -> Mapping[str, str]:
        request = FeedNotes(kind="stream", name=self._stream, notes=dict(notes))
        answer = asyncio.run(self._control.call("feed.notes", request.model_dump(mode="json")))
        return FeedNotes.model_validate(answer).notes
