"""What stands in the controller's way: logged when it begins, changes and ends, not at every tick."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cluster.errors import in_words

_log = logging.getLogger(__name__)


class TroubleLog:
    """Written by the controller's own thread, and by commands under its lock; read by any."""

    def __init__(self) -> None:
        self._away: dict[str, str] = {}
        self.faults: Mapping[str, str] = {}
        """Mistakes of ours as `status` tells them, by the model or feed that each stops."""

    @property
    def count(self) -> int:
        """How many things stand in the controller's way: mistakes of ours, and who is away."""
        return len(self.faults) + sum(map(bool, list(self._away.values())))

    def tell_faults(self, faults: Mapping[str, Exception]) -> None:
        """Those that there are now."""
        told = {name: in_words(fault) for name, fault in faults.items()}
        for name, words in told.items():
            if words != self.faults.get(name):
                _log.error("a mistake of ours stops %s; all else goes on", name, exc_info=faults[name])
        self.faults = told

    def note(self, asked: str, trouble: str) -> None:
        """What came of asking somebody: why he is away, or "" where he answered. Who was not asked stays as he was seen last."""
        before = self._away.get(asked, "")
        if trouble != before:
            _log.warning("%s", trouble or f"this is over: {before}")
        self._away[asked] = trouble
