"""How many connections a node's door holds, as HAProxy says."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cluster.watch.catalogue import DOOR_CONNECTIONS
from deployments.gateway.door.configuration import ADMIN
from deployments.observe.meters import Meters

EVERY_S = 2.0
ANSWER_S = 1.0
_FIELD = "CurrConns"


async def count_connections(folder: Path, node: str, meters: Meters) -> None:
    """Sets the gauge from now on, until cancelled. There is none while HAProxy does not answer."""
    while True:
        meters.put(DOOR_CONNECTIONS, await connections(folder), node)
        await asyncio.sleep(EVERY_S)


async def connections(folder: Path) -> int | None:
    """How many there are now; None where nobody says."""
    try:
        async with asyncio.timeout(ANSWER_S):
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
