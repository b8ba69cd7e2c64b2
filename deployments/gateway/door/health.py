"""Whether HAProxy has found a gateway up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deployments.gateway.door.configuration import AGAIN, UP_PATH

ANSWERS_WITHIN_S = 1.0


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
