"""The other gateways behind the same door, asked what they have counted: a caller of the door meets all of them."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.gateway.door.slots import taken_slots

ALONE = "x-headrace-alone"  # what a gateway asks another: of itself, and of no others. HAProxy takes it from callers
ANSWERS_WITHIN_S = 1.0
ANSWER_MOST_BYTES = 64 << 20

_log = logging.getLogger(__name__)


class OtherGateways:
    """Of the gateway in slot `own`. Used on one event loop."""

    def __init__(self, folder: Path, own: int, slots: int) -> None:
        self._folder, self._own, self._slots = folder, own, slots

    async def statistics(self, model: str, version: str | None) -> list[Mapping[str, Any]]:
        """Each `ModelStatistics`, in its JSON form, of each that answers within a second. One that does not is left out, and
        logged."""
        path = "/v2/models"
        if model:
            path += f"/{urllib.parse.quote(model, safe='')}" + (f"/versions/{urllib.parse.quote(version)}" if version else "")
        others = [number for number in taken_slots(self._folder, self._slots) if number != self._own]
        answers = await asyncio.gather(*(self._ask(number, f"{path}/stats") for number in others))
        return [each for answer in answers for each in answer.get("model_stats", ())]

    async def _ask(self, number: int, path: str) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                reader, writer = await asyncio.open_unix_connection(self._folder / f"{number}.http")
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nhost: door\r\nconnection: close\r\n{ALONE}: 1\r\n\r\n".encode())
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    size = int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0])
                    if not head.startswith(b"http/1.1 200") or size > ANSWER_MOST_BYTES:
                        return {}  # it may not know the model yet, or not any more
                    answer: Mapping[str, Any] = json.loads(await reader.readexactly(size))
                    return answer
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            _log.warning("the gateway in slot %d does not tell its statistics: %r", number, error)
            return {}
