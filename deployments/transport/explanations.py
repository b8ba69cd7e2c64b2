"""How a version's replicas are asked why they answer rows as they do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from ray import serve
from ray.exceptions import RayTaskError

from cluster.errors import EngineFailure, HeadraceError, NoCapacity
from cluster.foreign import kind_and_words
from cluster.routing.routes import Target
from deployments.engines.datatypes import Array
from deployments.explain.form import ExplainOptions, Explanation
from deployments.transport.remote import DEATHS, DEPLOYMENT, by_serve

# Of the time that a caller allows, for the way there and back: what the rest is not enough for comes back cut, not too late.
ON_THE_WAY_S, ON_THE_WAY_SHARE = 0.25, 0.1

_log = logging.getLogger(__name__)


class Explainer(Protocol):
    """Asks one version. Used from one event loop; never blocks it."""

    async def explain(
        self, target: Target, tensors: Mapping[str, Array], options: ExplainOptions, timeout_s: float
    ) -> list[Explanation]:
        """An explanation of each of n rows, cut where `timeout_s` is not enough. Raises BadInput, NoCapacity or EngineFailure."""


class ReplicaExplanations:
    """Implements `Explainer` by Serve's handles. Ray must be connected before the first call.

    A replica that dies under an explanation is no reason to ask the next one: what it was given need not be a row of anybody's.
    """

    async def explain(
        self, target: Target, tensors: Mapping[str, Array], options: ExplainOptions, timeout_s: float
    ) -> list[Explanation]:
        """See `Explainer.explain`."""
        handle: Any = serve.get_deployment_handle(DEPLOYMENT, app_name=target.app, _check_exists=False)
        theirs_s = timeout_s - min(ON_THE_WAY_S, ON_THE_WAY_SHARE * timeout_s)
        try:
            reply = await by_serve(handle.explain.remote(dict(tensors), options, theirs_s), target.app, timeout_s)
        except DEATHS as error:
            raise NoCapacity(
                "its replica ended under the explanation", where=target.app, remedy="retry, with fewer evaluations"
            ) from error
        except RayTaskError as error:
            _log.exception("%s: an explanation failed", target.app)
            raise EngineFailure(
                f"the replica failed to explain: {kind_and_words(error.cause)}", where=target.app, remedy="look at its log"
            ) from error
        if isinstance(reply, HeadraceError):
            reply.where = reply.where or target.app
            raise reply
        explanations: list[Explanation] = reply
        return explanations
