"""A whole gateway at a real door, over a scorer in memory: it serves the model `pair` of `gateway_fakes`.

A program: `python -m tests.support.pair_gateway NODE SETTINGS`, as `door_gateway` is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

from cluster.access.policy import Access, AccessPolicy
from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.door.opening import Door
from deployments.gateway.door.settings import DoorSettings
from deployments.gateway.http.callers import Callers
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer, ServerLimits
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, table

# Whoever has a certificate with this name may call the model; without a certificate anybody may see that it is there.
KNOWN = "client.example"
DOCUMENT = Access.model_validate(
    {
        "grants": [
            {"to": {"certificate": KNOWN}, "roles": ["score"], "models": ["pair"]},
            {"to": {"anyone": True}, "roles": ["view"], "models": ["pair"]},
        ]
    }
)


async def main(node: str, settings: DoorSettings) -> None:
    """Serves until it is killed, or told to end by the end of its standard input."""
    routes = replace(table(), access=AccessPolicy(document=DOCUMENT))
    scorer, control = FakeScorer(routes), FakeControl(routes)
    server = GatewayServer(
        DataPlane(scorer, PATIENT),
        Repository(scorer, control),
        control,
        Guard(scorer, visitors=True),
        "0.0.0",
        Callers.to(),
        ServerLimits(max_requests=100),
    )
    door = Door.enter(settings, node)
    door.watch()
    await server.start(door.slot)
    await door.opened()
    sys.stdout.write(json.dumps({"slot": door.slot.number}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    await door.leave()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], DoorSettings.from_document(json.loads(sys.argv[2]))))
