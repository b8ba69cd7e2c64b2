"""Private names of libraries. An adapter lists those that it uses in one table, and is the only module of its room that does.

A name is looked up, never imported by a statement: another release of a library then costs what hangs on the name, not the start.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inside:
    """A private name, which may lead through classes, as in `Handle._router`; `without` says what is lost where it is missing."""

    module: str
    name: str
    without: str

    def find(self) -> Any:
        """What stands there; None where nothing does."""
        try:
            return attrgetter(self.name)(importlib.import_module(self.module))
        except (ImportError, AttributeError):
            return None

    def probe(self) -> Any:
        """As `find`, and says so in the log where nothing is there."""
        found = self.find()
        if found is None:
            _log.warning("%s has no %s here: %s", self.module, self.name, self.without)
        return found
