"""The brain's way to the world. The rooms above implement these; `headrace/` puts them together.

Every method may block for seconds, is called from one thread of the controller, is idempotent, and raises Unreachable where
the world can't be asked. None waits for what it started: the controller looks again at its next tick.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from cluster.fleet.serving import Serving
from cluster.schedule.cron import Schedule
from cluster.schedule.jobs import JobSeen, RunCommand, SubmitJob, SubmitPreflight
from cluster.versions import Version


class AppStatus(StrEnum):
    """How a version's replicas, or a stream's, are doing."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class AppState:
    """What is seen of one running app. `message` is the reason where it is not ready; `transient` says that this is none of the
    version's, and may be over at the next try (rollout/blame.py)."""

    name: str
    status: AppStatus
    replicas: int
    target_replicas: int
    message: str = ""
    transient: bool = False


class Fleet(Protocol):
    """Runs versions. One app a version, named `version.id.app`; what exists is never run again. One that failed to start stays,
    FAILED, until it is retired, and may be deployed again once it is gone."""

    def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
        """Starts the version's replicas, unless its app exists: then nothing happens.

        `replicas` is how many to begin with, at least one: the last known number where the model is scaled by hand.
        """

    def state(self) -> Mapping[str, AppState]:
        """Every version's app that exists, by app name."""

    def scale(self, app: str, replicas: int) -> None:
        """Sets the number of replicas of an app whose model is scaled by hand. Raises NotFound, or Conflict where it is not."""

    def retire(self, app: str) -> None:
        """Drains and removes the app; nothing happens where there is none."""


class FeedKind(StrEnum):
    """What a feed reads from."""

    STREAM = "stream"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class FeedSpec:
    """A stream or batch as applied. `document` is its spec as JSON, which only its feed understands; `schedule` is a batch's."""

    kind: FeedKind
    name: str
    model: str
    document: str
    digest: str
    schedule: Schedule | None = None

    @property
    def app(self) -> str:
        """The name of the Serve app that runs it, e.g. `stream--digits`."""
        return f"{self.kind}--{self.name}"


@dataclass(frozen=True, slots=True)
class FeedState:
    """What is seen of a running feed: the digest it was started with, its app, and what each of its workers says of itself.

    `workers` is plain data that only its feed understands, a few seconds old at most.
    """

    name: str
    digest: str
    app: AppState
    workers: tuple[dict[str, Any], ...] = ()


class Feeds(Protocol):
    """Runs streams."""

    def start(self, feed: FeedSpec) -> None:
        """Starts the feed; where it runs with another digest, moves it to this one without loss."""

    def state(self) -> Mapping[str, FeedState]:
        """Every feed that runs, by name."""

    def stop(self, name: str) -> None:
        """Drains and stops the feed: what it took is committed or left to the next start. Nothing happens where there is none."""


class Jobs(Protocol):
    """Runs batches, preflights, and commands at alarms on the cluster, each in a job of its own that outlives the controller."""

    def submit(self, wanted: SubmitJob | SubmitPreflight | RunCommand) -> None:
        """Starts the job, unless one of its id was ever submitted: then nothing happens."""

    def state(self, jobs: Collection[str]) -> Mapping[str, JobSeen]:
        """Those of these ids that the cluster knows. A job that waits for its turn counts as running."""

    def stop(self, job: str) -> None:
        """Ends the job, which is then seen as failed. Nothing happens where it is over, or was never submitted."""
