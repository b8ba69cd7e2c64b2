"""The way to one sink: a queue bounded in bytes, and the thread that empties it. Whoever puts something in never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from cluster.errors import HeadraceError
from cluster.watch.catalogue import PAYLOADS
from deployments.observe.meters import Meters
from deployments.observe.payloads.event import PayloadEvent
from deployments.observe.payloads.sink import PayloadSink

_log = logging.getLogger(__name__)

LOGGED, DROPPED, FAILED = "logged", "dropped", "failed"


class SinkLane:
    """Of one model and place. `room_bytes` are those that wait and those that are being written."""

    def __init__(self, model: str, open_sink: Callable[[], PayloadSink], room_bytes: int, meters: Meters) -> None:
        self._model, self._open, self._room, self._meters = model, open_sink, room_bytes, meters
        self._some = threading.Condition()
        self._waiting: deque[PayloadEvent] = deque()
        self._waiting_bytes = self._writing_bytes = 0
        self._closing = False
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"payloads-{model}", daemon=True)
        self._thread.start()

    def offer(self, event: PayloadEvent, size_bytes: int) -> None:
        """Takes it, or counts it as dropped. Returns at once."""
        with self._some:
            taken = not self._closing and self._waiting_bytes + self._writing_bytes + size_bytes <= self._room
            if taken:
                self._waiting.append(event)
                half = self._waiting_bytes < self._room // 2
                self._waiting_bytes += size_bytes
                if len(self._waiting) == 1 or (half and self._waiting_bytes >= self._room // 2):
                    self._some.notify()
        if not taken:
            self._meters.add(PAYLOADS, 1, self._model, DROPPED)
            self._tell(DROPPED, "payloads of %s are dropped: more come than their sink takes", self._model)

    def end(self) -> None:
        """Writes what waits, and ends. Returns at once."""
        with self._some:
            self._closing = True
            self._some.notify()

    def join(self, timeout_s: float) -> None:
        """Waits until it has ended, for so long."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        sink = self._opened()
        while True:
            with self._some:
                self._some.wait_for(lambda: self._waiting or self._closing)
                until_s = time.monotonic() + (sink.gather_s if sink is not None else 0.0)
                while not self._closing and self._waiting_bytes < self._room // 2 and (left_s := until_s - time.monotonic()) > 0:
                    self._some.wait(left_s)
                events, self._waiting = list(self._waiting), deque()
                self._writing_bytes, self._waiting_bytes = self._waiting_bytes, 0
                over = self._closing and not events
            if over:
                break
            self._write(sink, events)
            with self._some:
                self._writing_bytes = 0
        if sink is not None:
            sink.close()

    def _opened(self) -> PayloadSink | None:
        try:
            return self._open()
        except HeadraceError as error:
            self._failed(error)
            return None

    def _write(self, sink: PayloadSink | None, events: list[PayloadEvent]) -> None:
        kept = 0
        if sink is not None:
            try:
                result = sink.write(events)
            except Exception:  # noqa: BLE001 - a defect: these are lost, and what comes later gets its chance
                _log.exception("payloads of %s were not written", self._model)
            else:
                kept = result.kept
                if result.error is not None:
                    self._failed(result.error)
        if kept:
            self._meters.add(PAYLOADS, kept, self._model, LOGGED)
        if kept < len(events):
            self._meters.add(PAYLOADS, len(events) - kept, self._model, FAILED)

    def _failed(self, error: HeadraceError) -> None:
        self._tell(error.kind, "payloads of %s are lost: %s", self._model, error)

    def _tell(self, kind: str, words: str, *arguments: object) -> None:
        """Once for each kind; how often is in the metric."""
        if kind not in self._told:
            self._told.add(kind)
            _log.warning(words + " (told once; see headrace_payloads_total)", *arguments)
