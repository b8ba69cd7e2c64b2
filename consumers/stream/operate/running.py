"""Replays and seeks that are under way, and what became of those that are over: kept by one process, told to the controller."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Literal

from cluster.errors import Conflict, Unreachable, in_words
from deployments.gateway.console.streams import StreamMove

REMEMBERED = 20  # of each stream
Say = Callable[[str], None]
Ended = Callable[[StreamMove], None]

_log = logging.getLogger(__name__)


class Headway:
    """Whether something gets on, of which a mark changes whenever it does. Used by one thread; times are monotonic."""

    def __init__(self, most_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._clock = most_s, clock
        self._mark: object = None
        self._since_s = clock()

    def look(self, mark: object, where: str, message: str) -> None:
        """Raises Unreachable where the mark has stayed the same for longer than `most_s`; `message` says what it waits for."""
        now_s = self._clock()
        if mark != self._mark:
            self._mark, self._since_s = mark, now_s
        elif now_s - self._since_s > self._most_s:
            what = f"nothing of it got on for {self._most_s:g} s{f': {message}' if message else ''}"
            raise Unreachable(what, where=where, remedy="see that a version serves, then look at what is left, and decide anew")


class MoveBook:
    """Every method may be called from any thread. One thing at a time is done to a stream."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moves: defaultdict[str, deque[StreamMove]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        with self._lock:
            return any(_running(moves) for moves in self._moves.values())

    def of(self, stream: str) -> tuple[StreamMove, ...]:
        """The newest first."""
        with self._lock:
            return tuple(reversed(self._moves.get(stream, ())))

    def check_idle(self, stream: str) -> None:
        """Raises Conflict where something is under way."""
        with self._lock:
            self._check_idle(stream)

    def begin(
        self, stream: str, kind: Literal["replay", "seek"], move_id: str, by: str, work: Callable[[Say], str], ended: Ended
    ) -> StreamMove:
        """Does the work on a thread of its own. It may say how far it is, and returns how it ended, in words; what it
        raises is told likewise. `ended` is called then. Raises Conflict where something is under way."""
        move = StreamMove(id=move_id, kind=kind, by=by, state="running", words="it begins", begun_s=self._clock())
        with self._lock:
            self._check_idle(stream)
            self._moves[stream].append(move)
        threading.Thread(target=self._run, args=(stream, move, work, ended), name=f"{kind} {stream}", daemon=True).start()
        return move

    def _check_idle(self, stream: str) -> None:
        going = _running(self._moves.get(stream, ()))
        if going is not None:
            what = f"a {going.kind} is under way, begun by {going.by}"
            raise Conflict(what, where=f"stream {stream}", remedy="wait until it has ended: this page shows how far it is")

    def _run(self, stream: str, move: StreamMove, work: Callable[[Say], str], ended: Ended) -> None:
        try:
            words, state = work(lambda words: self._put(stream, move.model_copy(update={"words": words}))), "done"
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
            _log.warning("a %s of stream %s failed", move.kind, stream, exc_info=error)
            words, state = in_words(error), "failed"
        over = move.model_copy(update={"state": state, "words": words, "ended_s": self._clock()})
        try:
            ended(over)
        except Exception as error:  # noqa: BLE001 (as above)
            _log.error("what became of a %s of stream %s could not be told", move.kind, stream, exc_info=error)
            over = over.model_copy(update={"words": f"{words}; the audit could not be told: {in_words(error)}"})
        finally:
            self._put(stream, over)

    def _put(self, stream: str, move: StreamMove) -> None:
        with self._lock:
            moves = self._moves[stream]
            self._moves[stream] = deque((move if one.id == move.id else one for one in moves), maxlen=REMEMBERED)


def _running(moves: Iterable[StreamMove]) -> StreamMove | None:
    """The one that is under way."""
    return next((one for one in moves if one.state == "running"), None)
