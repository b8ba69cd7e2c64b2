"""Sends the audit's checkpoint to where it shall be kept, now and then: a thread of the controller's process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from cluster.commands.watch.whole_audit import AuditCheckpoint
from cluster.errors import HeadraceError
from headrace.audit.places import Keep, place_of

EVERY_S = 600.0
_log = logging.getLogger(__name__)


class CheckpointSender:
    """A place that is away gets the newest one at the next time. A topic gets one also where nothing has happened: so its silence
    means something. In a folder it is looked for again, and what was changed there is told."""

    def __init__(self, newest: Callable[[], AuditCheckpoint], places: Sequence[str]) -> None:
        """`newest` asks the controller, and raises Unreachable while it is away. Raises BadInput for a place that is none."""
        self._newest = newest
        self._places: dict[str, Keep] = {place: place_of(place) for place in places}
        self._troubled: set[str] = set()

    def start(self) -> None:
        """Begins, with the first one at once; it ends with the process."""
        threading.Thread(target=self._run, name="checkpoints", daemon=True).start()

    def send(self) -> int:
        """Sends the newest to all places. How many have it."""
        try:
            newest = self._newest()
        except HeadraceError as error:
            _log.warning("no checkpoint of the audit: %s", error)
            return 0
        taken = 0
        for place, keep in self._places.items():
            try:
                keep(newest.note, newest.size)
            except HeadraceError as error:
                self._troubled.add(place)
                _log.error("a checkpoint of the audit is not kept at %s: %s", place, error)
            else:
                if place in self._troubled:
                    self._troubled.remove(place)
                    _log.warning("checkpoints of the audit are kept at %s again", place)
                taken += 1
        return taken

    def _run(self) -> None:
        while True:
            self.send()
            time.sleep(EVERY_S)  # the time alone says when the next is due
