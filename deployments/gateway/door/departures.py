"""Tells HAProxy of a gateway that has ended before its next check finds out: the kernel tells the keeper at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from deployments.gateway.door.configuration import ADMIN, CHECKED
from deployments.gateway.door.files import holder_of
from deployments.gateway.door.slots import lock_path

ANSWERS_WITHIN_S = 1.0


class Departures:
    """Of one folder's gateways. Used on one event loop."""

    def __init__(self, folder: Path, slots: int, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._slots = slots
        self._log = log
        self._watched: dict[int, int] = {}  # descriptors of processes, by slot
        self._telling: set[asyncio.Task[None]] = set()

    def look(self) -> bool:
        """Watches who has come since the last look. Whether there is a gateway."""
        for number in range(1, self._slots + 1):
            if number not in self._watched and (held := holder_of(lock_path(self._folder, number))) is not None:
                self._watched[number] = held
                asyncio.get_running_loop().add_reader(held, self._gone, number)
        return bool(self._watched)

    def close(self) -> None:
        """Watches no more."""
        for number in list(self._watched):
            self._forget(number)
        for task in self._telling:
            task.cancel()

    def _forget(self, number: int) -> None:
        held = self._watched.pop(number)
        asyncio.get_running_loop().remove_reader(held)
        os.close(held)

    def _gone(self, number: int) -> None:
        self._forget(number)
        task = asyncio.get_running_loop().create_task(self._tell(number))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, number: int) -> None:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                reader, writer = await asyncio.open_unix_connection(self._folder / ADMIN)
                try:
                    writer.write(f"set server {CHECKED}/s{number} health down\n".encode())
                    if said := (await reader.read()).decode(errors="replace").strip():
                        self._log(f"HAProxy does not take it that gateway {number} has ended: {said}")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:  # it is just starting: then it looks itself
            self._log(f"HAProxy was not told that gateway {number} has ended: {error!r}")
