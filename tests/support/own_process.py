"""An engine's own process as an engine that blocks: asked on a loop in a thread, as a caller's scorer asks it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

from cluster.signature import Signature
from deployments.engines.datatypes import Array
from deployments.scoring.rows import Answer
from deployments.transport.engine_process import EngineProcess
from tests.support.models import SIGNATURE


class OwnProcess:
    """Implements `Engine`."""

    def __init__(self, path: Path, *, threads: int, memory_bytes: int | None = None) -> None:
        self.process = EngineProcess(path, threads=threads, memory_bytes=memory_bytes)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.process.connect(), self._loop).result()

    @property
    def signature(self) -> Signature:
        """That of the tests' models."""
        return SIGNATURE

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Raises the first of the rows' failures, or what the process raises."""
        answer = self.answer(tensors)
        for failure in answer.failed.values():
            raise failure
        return answer.outputs

    def answer(self, tensors: Mapping[str, Array]) -> Answer:
        """Row by row, as its caller is told."""
        return asyncio.run_coroutine_threadsafe(self._score(tensors), self._loop).result()

    def close(self) -> None:
        """Ends the process and then the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _score(self, tensors: Mapping[str, Array]) -> Answer:
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.process.begin(tensors, told)
        return await told

    async def _end(self) -> None:
        self.process.close()
