"""The transport over Ray Serve: a handle per version's app, with every wait bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, ReplicaUnavailableError

from cluster.errors import EngineFailure, NoCapacity
from cluster.routes import Target
from cluster.serving import Serving
from deployments.datatypes import Array
from deployments.rows import Answer, all_failed

# The deployment's name in every version's app: the last part of the dashboard's scale address.
DEPLOYMENT = "replicas"
# After so many, the batch itself may be what kills them: no more replicas are spent on it.
DEATHS_AT_MOST = 3


class RemoteTransport:
    """Replicas by Serve handle. Ray must be connected before the first call."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    def keep(self, wanted: Mapping[str, tuple[Target, Serving]]) -> None:
        """See `Transport.keep`."""
        for app in [app for app in self._handles if app not in wanted]:
            del self._handles[app]

    def ready(self, target: Target) -> bool:  # noqa: ARG002
        """Always: a handle waits for replicas by itself."""
        return True

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        """See `Transport.score`. Where a replica dies under a call, another one is asked: scoring is idempotent."""
        end_s = time.monotonic() + timeout_s
        deaths = 0
        while True:
            try:
                return await self._once(target, tensors, end_s)
            except (RayActorError, ReplicaUnavailableError) as error:
                deaths += 1
                if deaths >= DEATHS_AT_MOST:
                    raise NoCapacity(
                        f"{deaths} replicas in turn died under this call", where=target.app, remedy="look at the replicas' logs"
                    ) from error

    async def close(self) -> None:
        """See `Transport.close`."""
        self._handles.clear()

    async def _once(self, target: Target, tensors: Mapping[str, Array], end_s: float) -> Answer:
        left_s = end_s - time.monotonic()
        handle = self._handle(target.app)
        # The replica is told the time that is left, so that it doesn't score what nobody waits for any more.
        response = handle.score.remote(dict(tensors), left_s)
        try:
            outputs, failed, refused = await asyncio.wait_for(response, max(left_s, 0.0))
        except TimeoutError:
            response.cancel()
            raise NoCapacity(
                "no replica answered in time", where=target.app, remedy="retry, add replicas, or allow more time"
            ) from None
        except BackPressureError as error:
            raise NoCapacity("the replicas' queue is full", where=target.app, remedy="retry, or add replicas") from error
        except DeploymentUnavailableError as error:
            raise NoCapacity("its replicas failed to start", where=target.app, remedy="look at the app's status") from error
        except (RayActorError, ReplicaUnavailableError):
            raise
        except (TaskCancelledError, RayServeException) as error:
            raise NoCapacity(f"Serve dropped the call: {error}", where=target.app, remedy="retry") from error
        except RayTaskError as error:
            if isinstance(error.cause, NoCapacity):
                raise error.cause from error
            rows = len(next(iter(tensors.values())))
            failure = EngineFailure(f"the replica failed: {error.cause!r}", where=target.app, remedy="look at its log")
            return all_failed(target.signature, rows, failure)
        return Answer(outputs, {row: EngineFailure(what, where=target.app) for row, what in zip(failed, refused, strict=True)})

    def _handle(self, app: str) -> Any:
        found = self._handles.get(app)
        if found is None:
            found = self._handles[app] = serve.get_deployment_handle(DEPLOYMENT, app_name=app, _check_exists=False)
        return found
