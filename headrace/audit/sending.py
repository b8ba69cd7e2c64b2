"""Sends the audit's checkpoint to where it shall be kept, now and then: a thread of the controller's process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from cluster.commands.watch.whole_audit import PLACE_MOST, AuditCheckpoint, TellCheckpoints
from cluster.errors import HeadraceError
from headrace.audit.places import Keep, place_of
from headrace.local.home import without_password

EVERY_S = 600.0
_log = logging.getLogger(__name__)


class CheckpointSender:
    """A place that is away gets the newest one at the next time, and the audit has from when to when it took none. A topic gets
    one also where nothing has happened: so its silence means something. In a folder it is looked for again, and what was changed
    there is told."""

    def __init__(
        self,
        newest: Callable[[], AuditCheckpoint],
        places: Sequence[str],
        tell: Callable[[TellCheckpoints], object] = lambda _: None,
    ) -> None:
        """`newest` asks the controller, and raises Unreachable while it is away; `tell` tells it which places took none. Raises
        BadInput for a place that is none."""
        self._newest, self._tell = newest, tell
        self._places: dict[str, Keep] = {place: place_of(place) for place in places}

    def start(self) -> None:
        """Begins, with the first one at once; it ends with the process."""
        threading.Thread(target=self._run, name="checkpoints", daemon=True).start()

    def send(self) -> int:
        """Sends the newest to all places, and tells which of them did not take it. How many have it."""
        try:
            newest = self._newest()
        except HeadraceError as error:
            _log.warning("no checkpoint of the audit: %s", error)
            return 0
        away = dict[str, str]()
        for place, keep in self._places.items():
            shown = without_password(place)
            try:
                keep(newest.note, newest.size)
            except HeadraceError as error:
                away[shown[:PLACE_MOST]] = error.kind
                _log.error("a checkpoint of the audit is not kept at %s: %s", shown, error)
            except Exception as fault:  # noqa: BLE001 - whatever a library raises keeps no other place from its own, and is told
                away[shown[:PLACE_MOST]] = type(fault).__name__
                _log.exception("a checkpoint of the audit is not kept at %s", shown)
        try:
            self._tell(TellCheckpoints(records=newest.size, away=away))
        except HeadraceError as error:
            _log.warning("the audit is not told where checkpoints are kept: %s", error)
        return len(self._places) - len(away)

    def _run(self) -> None:
        while True:
            try:
                self.send()
            except Exception:  # noqa: BLE001 - a thread that ends here would end all checkpoints without a word
                _log.exception("no checkpoint of the audit was sent")
            time.sleep(EVERY_S)  # the time alone says when the next is due
