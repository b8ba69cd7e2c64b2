"""Whether HAProxy has found a gateway up, and how many connections it holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cluster.watch.catalogue import DOOR_CONNECTIONS
from deployments.gateway.door.configuration import ADMIN, AGAIN, UP_PATH
from deployments.observe.meters import Meters

ANSWERS_WITHIN_S = 1.0
COUNTED_EVERY_S = 2.0
_FIELD = "CurrConns"


async def is_up(folder: Path, slot: int | None = None) -> bool:
    """Of that slot, or any. False where HAProxy can't be asked."""
    path = UP_PATH if slot is None else f"{UP_PATH}{slot}"
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(folder / AGAIN)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def count_connections(folder: Path, node: str, meters: Meters) -> None:
    """Sets the gauge from now on, until cancelled. There is none while HAProxy does not answer."""
    while True:
        meters.put(DOOR_CONNECTIONS, await connections(folder), node)
        await asyncio.sleep(COUNTED_EVERY_S)


async def connections(folder: Path) -> int | None:
    """How many there are now; None where nobody says."""
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(folder / ADMIN)
            try:
                writer.write(b"show info\n")
                told = (await reader.read()).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    fields = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
    return int(fields[_FIELD]) if _FIELD in fields else None
