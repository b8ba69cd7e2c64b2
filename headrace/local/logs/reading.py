"""Reads logs through Ray's dashboard, which fetches them from the node where they lie."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.errors import Unreachable
from deployments.control.client import CONTROLLER_ACTOR
from headrace.local.logs.sources import LogFilter, LogKind, LogSource, sources_of
from headrace.local.ray.dashboard import DashboardAsker

SERVE_FILES = "serve/*"
# What Ray writes first into a worker's file.
_MARKS = (":job_id:", ":actor_name:", ":task_name:")
_READ_S = 30.0
_WAKE_S = 0.5


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line, and whose it is."""

    source: LogSource
    text: str


class LogReader:
    """Of one run. Every method raises Unreachable where the dashboard can't be asked."""

    def __init__(self, dashboard: DashboardAsker) -> None:
        self._dashboard = dashboard

    def sources(self, wanted: LogFilter) -> list[LogSource]:
        """Those there are, of processes that run and of such as have ended: the controller, gateways, then by name."""
        files: dict[str, list[str]] = {}
        for node in self._nodes():
            told = self._ask("/api/v0/logs", node_id=node, glob=SERVE_FILES)
            files[node] = [name for names in (told or {}).values() for name in names]
        found = [*self._controllers(), *sources_of(files)]
        return [source for source in found if wanted.wants(source)]

    def tail(self, source: LogSource, lines: int) -> list[LogLine]:
        """Its last so many lines."""
        try:
            with self._open(source, "file", lines) as answer:
                answer.read()
                return [LogLine(source, line) for line in answer.text.splitlines() if _is_ours(line)]
        except httpx.HTTPError as error:
            raise _away(error) from error

    def follow(self, sources: Sequence[LogSource], lines: int) -> Iterator[LogLine]:
        """Their last so many lines, and each that comes, until whoever reads stops. A log that can't be followed any more, since
        its node has gone, ends by itself."""
        told: queue.SimpleQueue[LogLine | None] = queue.SimpleQueue()
        ended = threading.Event()
        threads = [
            threading.Thread(target=self._follow, args=(source, lines, told, ended), name="log", daemon=True)
            for source in sources
        ]
        for thread in threads:
            thread.start()
        left = len(threads)
        try:
            while left:
                try:
                    line = told.get(timeout=_WAKE_S)
                except queue.Empty:
                    continue  # so that Ctrl-C is seen
                if line is None:
                    left -= 1
                else:
                    yield line
        finally:
            ended.set()

    def _follow(self, source: LogSource, lines: int, told: queue.SimpleQueue[LogLine | None], ended: threading.Event) -> None:
        try:
            with self._open(source, "stream", lines) as answer:
                for line in answer.iter_lines():
                    if ended.is_set():
                        return
                    if _is_ours(line):
                        told.put(LogLine(source, line))
        except (httpx.HTTPError, Unreachable) as error:
            told.put(LogLine(source, f"(can't be followed any more: {type(error).__name__})"))
        finally:
            told.put(None)

    def _open(self, source: LogSource, how: str, lines: int) -> Any:
        asked = {"actor_id": source.actor, "suffix": "err"} if source.actor else {"node_id": source.node, "filename": source.file}
        return self._dashboard.stream(
            f"/api/v0/logs/{how}", read_s=None if how == "stream" else _READ_S, lines=str(lines), **asked
        )

    def _controllers(self) -> list[LogSource]:
        told = self._ask("/api/v0/actors", filter_keys="name", filter_predicates="=", filter_values=CONTROLLER_ACTOR, detail="1")
        rows: Sequence[Mapping[str, Any]] = (told or {}).get("result") or ()
        return [
            LogSource(LogKind.CONTROLLER, str(row.get("node_id") or ""), actor=str(row["actor_id"]))
            for row in rows
            if row.get("name") == CONTROLLER_ACTOR and row.get("state") != "DEAD"
        ]

    def _nodes(self) -> list[str]:
        told = self._ask("/api/v0/nodes")
        return [str(row["node_id"]) for row in (told or {}).get("result") or () if row.get("state") == "ALIVE"]

    def _ask(self, path: str, **asked: str) -> dict[str, Any] | None:
        try:
            told = self._dashboard.get(path, **asked)
        except (httpx.HTTPError, ValueError) as error:
            raise _away(error) from error
        found: dict[str, Any] | None = (told.get("data") or {}).get("result")
        return found


def _is_ours(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(_MARKS)


def _away(error: Exception) -> Unreachable:
    what = f"the logs can't be had: {type(error).__name__}"
    return Unreachable(
        what, where="Ray's dashboard", remedy="see that it runs; `headrace status` tells where logs lie on this machine"
    )
