"""What can be asked of the controller: one request and one answer model a command.

The same names serve the command line, `POST /control/{command}` and the controller actor's `call`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from cluster.fleet.serving import AskedServing, Serving
from cluster.rollout.evidence import EvidenceBatch
from cluster.rollout.plan import NamedPlan, Plan
from cluster.routing.routes import RouteTable
from cluster.schedule.fires import AskedSchedule
from cluster.signature import Signature


class Message(BaseModel):
    """Base of all requests and answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Command(Message):
    """Base of all requests that may change something. `actor` says who asks."""

    actor: str = Field(default="", max_length=200, description="who asks, for the audit")


class RegisterVersion(Command):
    """Makes a packaged artifact the next version of its model. The same digest again returns the version it has."""

    model: str
    artifact_uri: str
    digest: str
    engine: str
    signature: Signature


class VersionView(Message):
    """One version as commands show it. `role` is stable, candidate, warm or idle."""

    model: str
    version: int
    artifact_uri: str
    digest: str
    engine: str
    signature: Signature
    created_s: float
    role: str = "idle"


class ModelDocument(Message):
    """A Model as applied (its build section stays with the builder)."""

    name: str
    serving: AskedServing = Serving()
    rollout: Plan = Plan()


class FeedDocument(Message):
    """A Stream or Batch as applied; `spec` is what only its feed understands. Only a Batch has a `schedule`."""

    kind: Literal["stream", "batch"]
    name: str
    model: str
    spec: dict[str, Any]
    schedule: AskedSchedule | None = None


class Apply(Command):
    """All documents of a project at once: all are taken, or none."""

    models: tuple[ModelDocument, ...] = ()
    feeds: tuple[FeedDocument, ...] = ()


class Change(Message):
    """What `apply` did to one document. `note` says what it does not do yet."""

    kind: str
    name: str
    action: Literal["created", "updated", "unchanged"]
    note: str = ""


class Applied(Message):
    """The changes, in the documents' order."""

    changes: tuple[Change, ...]


class ModelName(Command):
    """A command on one model."""

    model: str


class Resolve(Command):
    """Asks for one version; without a number, for the stable one."""

    model: str
    version: int | None = None


# Told apart by kind, so that what is wrong with one is not told as what it lacks of the other.
AnyPlan = Annotated[
    Annotated[Plan, Tag("own")] | Annotated[NamedPlan, Tag("named")],
    Discriminator(lambda value: "named" if isinstance(value, str) else "own"),
]


class StartRollout(ModelName):
    """Starts a rollout of `version` (the newest where None), with the model's plan where `plan` is None."""

    version: int | None = None
    plan: AnyPlan | None = None
    supersede: bool = False
    compatible: bool = Field(default=False, description="callers bear that its signature is wider than stable's")


class Label(Message):
    """What was true: `key` is the label key that came with the answer, `label` the class's number, or the number itself."""

    key: str
    label: float


class TellLabels(ModelName):
    """Labels of answers given in the rollout under way. With a `source` and a `sequence` that rises, a resend counts nothing."""

    labels: tuple[Label, ...] = Field(min_length=1, max_length=10_000)
    source: str = ""
    sequence: int = Field(default=0, ge=0)


REASONS_AT_MOST = 10


class LabelsTold(Message):
    """How many labels counted, how many belong to another rollout or were told before, and why others were refused.

    `reasons` holds the first REASONS_AT_MOST.
    """

    counted: int
    elsewhere: int
    refused: int
    reasons: tuple[str, ...] = ()


class CheckView(Message):
    """A check as it stands, in numbers and in plain words: the difference lies in [low, high] with confidence.

    `observed` is how much of the candidate it rests on: rows, calls or labels.
    """

    name: str
    low: float
    high: float
    margin: float
    verdict: Literal["passed", "failed", "waiting"]
    words: str
    observed: int = 0


class RolloutView(Message):
    """A rollout as commands show it. `weight` and `shadow` are percent now; `steps` how many the plan has."""

    id: int
    model: str
    candidate: int
    stable: int | None
    state: str
    step: int
    steps: int
    weight: float
    shadow: float
    paused: bool
    reason: str
    started_s: float
    ended_s: float | None
    checks: tuple[CheckView, ...] = ()


class AuditView(Message):
    """One transition: who or which check made it, when, and from which evidence."""

    at_s: float
    model: str
    rollout: int | None
    event: str
    actor: str
    detail: dict[str, Any]


class RolloutStatus(Message):
    """The rollout under way, or the last one, of one model; None where there was none."""

    rollout: RolloutView | None


class RolloutHistory(Message):
    """All rollouts of a model, newest first, and their audit, oldest first."""

    rollouts: tuple[RolloutView, ...]
    audit: tuple[AuditView, ...]


class ScaleModel(Command):
    """Sets the replicas of the versions of a model that is scaled by hand."""

    model: str
    replicas: int = Field(ge=0)


class FeedName(Command):
    """A command on one stream or batch."""

    kind: Literal["stream", "batch"]
    name: str


NOTES_AT_MOST = 20_000


class FeedNotes(Message):
    """What a feed remembers between the lives of its workers: keys and texts that only it understands.

    Asked with notes, they are kept in place of those of the same keys; the answer holds all.
    """

    kind: Literal["stream", "batch"]
    name: str
    notes: dict[str, str] = Field(default_factory=dict, max_length=NOTES_AT_MOST)


class FireView(Message):
    """One fire of a schedule: when it was due, how it went, under which job. `attempt` counts from 0."""

    at_s: float
    state: str
    job: str
    attempt: int
    ended_s: float | None
    reason: str


class ScheduleView(Message):
    """A batch's schedule: when it runs next (nothing while paused), and its history, oldest first."""

    cron: str
    timezone: str
    next_s: tuple[float, ...]
    fires: tuple[FireView, ...]


class FeedView(Message):
    """A feed as commands show it. `wanted` is what was asked for, `status` what is seen, `workers` what each says of itself."""

    kind: str
    name: str
    model: str
    wanted: Literal["running", "paused"]
    status: str
    replicas: int
    message: str
    spec: dict[str, Any]
    workers: tuple[dict[str, Any], ...] = ()
    schedule: ScheduleView | None = None


class FeedList(Message):
    """All feeds of the kind asked for."""

    feeds: tuple[FeedView, ...]


class AppView(Message):
    """A version's replicas as seen. One that failed to start is tried again at `next_try_s`, in Unix time; None where it is not,
    or is being tried."""

    app: str
    status: str
    replicas: int
    target_replicas: int
    message: str
    next_try_s: float | None = None


class ModelView(Message):
    """One model with its versions, replicas and rollout. `fault` is a mistake of ours that stops it, in words."""

    name: str
    stable: int | None
    candidate: int | None
    serving: Serving | None
    plan: Plan | None
    versions: tuple[VersionView, ...]
    apps: tuple[AppView, ...]
    rollout: RolloutView | None
    fault: str = ""


class Nothing(Message):
    """No arguments, or no answer."""


class StatusView(Message):
    """Everything at a glance. `table` is the number of the route table; `tick_s` when the controller last looked."""

    table: int
    tick_s: float
    models: tuple[ModelView, ...]
    feeds: tuple[FeedView, ...]


COMMANDS: dict[str, tuple[type[Message], type[Message]]] = {
    "status": (Nothing, StatusView),
    "apply": (Apply, Applied),
    "version.register": (RegisterVersion, VersionView),
    "version.resolve": (Resolve, VersionView),
    "version.remove": (Resolve, Nothing),
    "model.show": (ModelName, ModelView),
    "model.scale": (ScaleModel, Nothing),
    "rollout.start": (StartRollout, RolloutView),
    "rollout.status": (ModelName, RolloutStatus),
    "rollout.history": (ModelName, RolloutHistory),
    "rollout.pause": (ModelName, RolloutView),
    "rollout.resume": (ModelName, RolloutView),
    "rollout.promote": (ModelName, RolloutView),
    "rollout.abort": (ModelName, RolloutView),
    "rollout.label": (TellLabels, LabelsTold),
    "feed.list": (Nothing, FeedList),
    "feed.show": (FeedName, FeedView),
    "feed.pause": (FeedName, FeedView),
    "feed.resume": (FeedName, FeedView),
    "feed.notes": (FeedNotes, FeedNotes),
}


class ControlPlane(Protocol):
    """What scorers and the gateway need of the controller. The calls return quickly, or raise Unreachable while it is away."""

    async def routes(self, after: int, timeout_s: float) -> RouteTable:
        """The table as soon as its number is above `after`; the unchanged one once `timeout_s` is over."""

    async def push(self, batch: EvidenceBatch) -> None:
        """Hands evidence over. Safe to repeat: a batch that was seen is not counted again."""

    async def call(self, command: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Runs one of COMMANDS on plain JSON data. Raises NotFound for an unknown command and BadInput for a bad payload."""
