"""All that the controller remembers: one immutable value, saved whole by the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cluster.access.keys import StoredKey
from cluster.access.policy import Access
from cluster.audit.uses import Teller
from cluster.drift.alarms import DriftAlarm
from cluster.drift.section import Drift
from cluster.fleet.retry import Retry
from cluster.fleet.serving import Serving
from cluster.ports import FeedSpec
from cluster.quality.live import LiveQuality
from cluster.quality.recent import RecentLabels
from cluster.quality.section import LiveLabels
from cluster.rollout.evidence import Evidence
from cluster.rollout.plan import Plan
from cluster.rollout.record import Rollout
from cluster.schedule.fires import Fire
from cluster.versions import Version, VersionId, Versions
from cluster.watch.payloads import Payloads


@dataclass(frozen=True, slots=True)
class Removal:
    """That a model, stream or batch shall go, and `by` whom that was asked.

    Of a model: its `artifacts` too, or not; since when, in Unix time, nobody is sent to it (`unrouted_s`); and `retry` where an
    artifact could not be removed.
    """

    by: str
    artifacts: bool = False
    unrouted_s: float | None = None
    retry: Retry | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model. `serving` and `plan` are None until its document is applied; until then nothing of it runs.

    `last_number` is the newest version number given out, `considered` the newest version for which a rollout was started or
    refused. `rollout` is the id of the one under way, or of the last. `warm` maps former versions to the Unix time until which
    they stay in the route table. `replicas` is the last number seen of a model scaled by hand, `scale_to` a number asked for
    and not seen yet. `retries` are versions that should run and failed to start. `project` names the project whose files it was
    last applied from, where they say so. `removal` is there once it shall go. `payloads` says what of its traffic is kept,
    `drift` how closely its rows are watched (None: as the section's defaults say), `labels` that late labels are taken at all
    times, and `quality` what they came to.
    """

    name: str
    serving: Serving | None = None
    plan: Plan | None = None
    stable: int | None = None
    last_number: int = 0
    considered: int = 0
    rollout: int | None = None
    warm: Mapping[int, float] = field(default_factory=dict)
    replicas: int | None = None
    scale_to: int | None = None
    retries: Mapping[int, Retry] = field(default_factory=dict)
    project: str = ""
    removal: Removal | None = None
    payloads: Payloads | None = None
    drift: Drift | None = None
    labels: LiveLabels | None = None
    quality: LiveQuality = field(default_factory=LiveQuality)

    @property
    def unrouted(self) -> bool:
        """Whether it is being removed and nobody may be sent to it any more."""
        return self.removal is not None and self.removal.unrouted_s is not None


class Wanted(StrEnum):
    """What a person wants of a feed."""

    RUNNING = "running"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Feed:
    """A stream or batch as applied, and whether it should run.

    `fires` is the history of a batch's schedule, and what of it is under way; nothing fires before `since_s`. `notes` are what
    the feed itself wants remembered, `retry` is there where it should run and failed to start. `project` and `removal` are as a
    model's. `seek_s` is there while a seek alone keeps a stream paused: since then (Unix).
    """

    spec: FeedSpec
    wanted: Wanted = Wanted.RUNNING
    since_s: float = 0.0
    fires: tuple[Fire, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    retry: Retry | None = None
    project: str = ""
    removal: Removal | None = None
    seek_s: float | None = None


CONTROLLER = "controller"  # who does in the audit what nobody asked for


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened: who or which check made it, when, from which evidence. `detail` is plain JSON data. `door` and
    `address` say how and from where it was asked for, where it came from outside."""

    at_s: float
    model: str
    rollout: int | None
    event: str
    actor: str
    detail: dict[str, Any] = field(default_factory=dict)
    door: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class StoredSubjectKeys:
    """The keys of data subjects, sealed: nobody here can open them. Each that replaces them has the next number."""

    number: int
    document: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything. `evidence` holds all stages of the rollouts under way; `scorers` the last sequence counted of each scorer.
    `keys` are API keys by their ids, `access` the Access document, where one was applied, and `access_standing` the digest of the
    last one that was given at a start; `brought` are the digests of versions that starts have brought. `alarms` are those of
    drift, by their keys, `subjects` the keys of data subjects, by their names. `tellers` are processes that tell uses,
    `audit_key` is the public key that signs the audit now, and `checkpoints_away` why which places did not take its last
    checkpoint.

    `table` numbers the route table and `table_digest` tells whether its contents changed. `recent_labels` is not saved.
    """

    versions: Versions = field(default_factory=Versions)
    models: Mapping[str, Model] = field(default_factory=dict)
    rollouts: Mapping[int, Rollout] = field(default_factory=dict)
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    scorers: Mapping[str, int] = field(default_factory=dict)
    last_rollout: int = 0
    table: int = 0
    table_digest: str = ""
    keys: Mapping[str, StoredKey] = field(default_factory=dict)
    access: Access | None = None
    access_standing: str = ""
    brought: tuple[str, ...] = ()
    checkpoints_away: Mapping[str, str] = field(default_factory=dict)
    alarms: Mapping[str, DriftAlarm] = field(default_factory=dict)
    subjects: Mapping[str, StoredSubjectKeys] = field(default_factory=dict)
    tellers: Mapping[str, Teller] = field(default_factory=dict)
    audit_key: str = ""
    recent_labels: RecentLabels = field(default_factory=RecentLabels)

    def with_model(self, model: Model) -> State:
        """The state with this model in place of the one of its name."""
        return replace(self, models={**self.models, model.name: model})

    def with_rollout(self, rollout: Rollout) -> State:
        """The state with this rollout in place of the one of its id. Ended ones drop their evidence: the audit has it."""
        evidence = self.evidence
        if rollout.ended:
            evidence = evidence.without(lambda model, stage: of_rollout(model, stage, rollout))
        return replace(self, rollouts={**self.rollouts, rollout.id: rollout}, evidence=evidence)

    def with_newest_rollouts(self, model: str, keep: int) -> State:
        """The state without the model's ended rollouts but the last so many."""
        ended = sorted(rollout.id for rollout in self.rollouts.values() if rollout.model == model and rollout.ended)
        gone = frozenset(ended[:-keep])
        if not gone:
            return self
        return replace(self, rollouts={number: rollout for number, rollout in self.rollouts.items() if number not in gone})

    def rollout_of(self, model: str) -> Rollout | None:
        """The rollout under way, or the last one."""
        known = self.models.get(model)
        return self.rollouts[known.rollout] if known is not None and known.rollout is not None else None

    def active(self, model: str) -> Rollout | None:
        """The rollout under way."""
        rollout = self.rollout_of(model)
        return rollout if rollout is not None and not rollout.ended else None

    def versions_of(self, model: str) -> list[Version]:
        """The versions of a model, oldest first."""
        return self.versions.of(model)

    def stable_or_newest(self, model: str) -> Version | None:
        """The version that serves, or the newest where none does; None where a model has none."""
        known = self.models.get(model)
        number = known.stable if known is not None and known.stable is not None else self.versions.newest(model)
        return self.versions.get(VersionId(model, number))


def of_rollout(model: str, stage: str, rollout: Rollout) -> bool:
    """Whether what is filed under these was gathered in some step of this rollout."""
    return model == rollout.model and stage.startswith(f"r{rollout.id}.")


def feed_key(kind: str, name: str) -> str:
    """The name of a feed in `State.feeds`; also its app's."""
    return f"{kind}--{name}"
