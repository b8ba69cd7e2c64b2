"""Replicas that explain, in this process: for tests without Ray of all that asks them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.errors import HeadraceError
from cluster.routing.routes import Target
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine
from deployments.explain.form import ExplainOptions, Explanation
from deployments.serving.explaining import ReplicaExplainer
from deployments.serving.turns import EngineTurns


class ExplainingReplicas:
    """Implements `deployments.transport.explanations.Explainer`: one replica a version, whose artifacts lie on this machine."""

    def __init__(self) -> None:
        self._replicas: dict[str, ReplicaExplainer] = {}
        self.asked = 0

    async def explain(
        self, target: Target, tensors: Mapping[str, Array], options: ExplainOptions, timeout_s: float
    ) -> list[Explanation]:
        """See `Explainer.explain`."""
        self.asked += 1
        replica = self._replicas.get(target.app)
        if replica is None:
            artifact = Path(target.artifact_uri)
            replica = self._replicas[target.app] = ReplicaExplainer(
                load_engine(artifact), EngineTurns(1), artifact, lambda work: work()
            )
        found = await replica.explain(tensors, options, timeout_s)
        if isinstance(found, HeadraceError):
            raise found
        return found
