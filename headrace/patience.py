"""How long the command line goes on asking a gateway that is away: it may be starting again just now."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 1.0
NOTE_AFTER_S = 3.0


def note_on_stderr(text: str) -> None:
    """One line for a person, apart from the answer."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _yes() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Patience:
    """`may_answer` says whether what should answer is still there to start again; `note` is told once that it takes a while."""

    may_answer: Callable[[], bool] = _yes
    note: Callable[[str], None] = note_on_stderr
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Waiting:
    """One call's patience. `where` is the gateway's address; without patience it never goes on."""

    def __init__(self, patience: Patience | None, where: str, timeout_s: float) -> None:
        self._patience, self._where, self._timeout_s = patience, where, timeout_s
        self._began_s = patience.clock() if patience is not None else 0.0
        self._wait_s = FIRST_WAIT_S
        self._noted = False

    @property
    def left_s(self) -> float:
        """Of the call's time."""
        return self._timeout_s - self._waited_s

    @property
    def _waited_s(self) -> float:
        return self._patience.clock() - self._began_s if self._patience is not None else 0.0

    def goes_on(self, why: str) -> bool:
        """Waits a moment, a longer one each time. False at once where there is no time left, or nothing that could answer."""
        if self._patience is None or self._wait_s >= self.left_s or not self._patience.may_answer():
            return False
        if not self._noted and self._waited_s >= NOTE_AFTER_S:
            self._noted = True
            self._patience.note(f"waiting for the gateway at {self._where}: {why}")
        self._patience.sleep(self._wait_s)
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
        return True
