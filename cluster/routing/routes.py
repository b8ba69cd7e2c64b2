"""The route table: which versions of each model may be scored with, and how keys are split among them.

The controller numbers and publishes it; every scorer keeps the newest it has seen, also while the controller is away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from cluster.access.policy import NO_POLICY, AccessPolicy
from cluster.fleet.serving import Serving
from cluster.signature import Signature
from cluster.versions import VersionId
from cluster.watch.payloads import Payloads

WEIGHT_UNIT = 10_000  # weights are in basis points: 10_000 is all traffic


@dataclass(frozen=True, slots=True)
class Target:
    """One READY version that a scorer may use."""

    version: int
    app: str
    artifact_uri: str
    digest: str
    engine: str
    signature: Signature

    @property
    def model(self) -> str:
        """Whose version it is."""
        named = VersionId.of_app(self.app)
        return named.model if named is not None else self.app


@dataclass(frozen=True, slots=True)
class LabelledOutput:
    """The output that the labels of `rollout` (0: of none) judge: by its class (the argmax), or by its number.

    `scores` is the output that tells how sure a version is; empty where nobody asks.
    """

    rollout: int
    name: str
    by_class: bool
    scores: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One model's split. `targets` holds stable, candidate and any version kept warm; only READY ones.

    `weight` basis points of the keys go to the candidate. `shadow` basis points of the stable's rows are scored by the
    candidate too, compared, and never returned. `stage` names the rollout and its step: evidence carries it, so that late
    evidence of an earlier step is not counted. `salt` seeds the split and stays the same through one rollout.
    While `trial`, the candidate has not passed its first step: it is never loaded in its callers' own processes, so that one
    that crashes takes none of them along. `slow_ms` is the bound above which a call counts as slow, `tolerance` what outputs may
    differ by in shadow: all, or by name (None, or not named: compare argmax on the last axis). While labels are wanted,
    `labels` says of which output. `asleep`: a person wants no replicas of it, so nothing
    starts when it is called. `payloads` says what of its traffic is kept; None: nothing.
    """

    model: str
    stable: int
    serving: Serving
    targets: dict[int, Target]
    candidate: int | None = None
    weight: int = 0
    shadow: int = 0
    stage: str = ""
    salt: int = 0
    fallback: bool = True
    trial: bool = False
    slow_ms: float | None = None
    tolerance: float | dict[str, float] | None = None
    labels: LabelledOutput | None = None
    asleep: bool = False
    payloads: Payloads | None = None


class Standing(StrEnum):
    """Whether a model can answer now, and why not."""

    READY = "ready"
    AWAY = "away"
    """It is served, but has no replica now: its callers are told to retry."""
    ASLEEP = "asleep"
    """A person wants no replicas of it."""
    WAITING = "waiting"
    """It has a version, and none is ready yet."""
    EMPTY = "empty"
    """It has no version, or no document says how to serve it, or it is being removed."""


class Stamp(NamedTuple):
    """Orders tables: those of a later controller after all of an earlier one, also where its store was restored from a copy."""

    fence: int
    number: int


NOTHING = Stamp(-1, -1)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes at one moment, how each known model stands, and who may do what. `fence` is that of the controller that
    published it; `number` only rises in one store. 0 is the empty table before the first."""

    number: int
    routes: dict[str, Route]
    models: dict[str, Standing] = field(default_factory=dict)
    fence: int = 0
    access: AccessPolicy = NO_POLICY

    @property
    def stamp(self) -> Stamp:
        """To be compared."""
        return Stamp(self.fence, self.number)


EMPTY = RouteTable(number=0, routes={})
