"""The repository's calls over HTTP, in the JSON that tritonclient reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from cluster.access.callers import Caller
from cluster.errors import BadInput
from deployments.gateway.http.asgi import Reply, Request, json_object, json_reply
from deployments.gateway.repository import Repository

CALLS = frozenset({"load", "unload"})


def is_repository_call(segments: Sequence[str]) -> bool:
    """Whether the path is one of `v2/repository/index` and `v2/repository/models/{m}/load|unload`."""
    match segments:
        case ["v2", "repository", "index"]:
            return True
        case ["v2", "repository", "models", _, call]:
            return call in CALLS
    return False


async def answer_repository_call(repository: Repository, caller: Caller, segments: Sequence[str], request: Request) -> Reply:
    """Answers such a path. Raises what the repository raises, and BadInput for a body that is not the protocol's."""
    document = json_object(await request.body(), "request")
    if segments[2] == "index":
        ready = document.get("ready", False)
        if not isinstance(ready, bool):
            raise BadInput("must be true or false", where="ready")
        return json_reply([asdict(entry) for entry in await repository.index(caller, ready_only=ready)])
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadInput("must be an object", where="parameters")
    if segments[4] == "load":
        await repository.load(caller, segments[3], list(parameters))
    else:  # its only parameter, `unload_dependents`, asks for nothing here
        await repository.unload(caller, segments[3])
    return json_reply({})
