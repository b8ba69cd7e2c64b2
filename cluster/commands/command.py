"""What every command is made of: its request and answer, what its handler may look at, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from cluster.access.callers import CLUSTER, Caller
from cluster.audit.checkpoint import AuditSigner
from cluster.audit.merkle import TreeHead
from cluster.commands.rights import Asks
from cluster.ports import AppState, FeedState
from cluster.state import AuditEvent, State
from cluster.store.port import NO_BRANCHES, AuditRecord
from cluster.versions import VersionId
from cluster.watch.history import HistoryPoint
from cluster.watch.sums import MetricTotals

if TYPE_CHECKING:  # numpy, which who only asks goes without
    from cluster.drift.watched import DriftLook

ACTOR_MOST = 200


class Message(BaseModel):
    """Base of all requests and answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Command(Message):
    """Base of all requests that may change something. `actor` says who asks."""

    actor: str = Field(default="", max_length=ACTOR_MOST, description="who asks, for the audit")


class ModelName(Command):
    """A command on one model."""

    model: str


class Nothing(Message):
    """No arguments, or no answer."""


Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


def _no_records(_: int, __: int) -> list[AuditRecord]:
    return []


def _no_branches(_: Sequence[str]) -> Mapping[str, bytes]:
    return NO_BRANCHES


def _first(_: str) -> int:
    return 1


@dataclass(frozen=True, slots=True)
class Context:
    """What a command may look at. `apps` and `feeds` are as last seen, at `tick_s` (0: not yet).

    `faults` are mistakes of ours at the last tick, in words, by model or feed key. `actor` is who asks, for the audit, and
    `caller` what is known of him: he is told of models that he may see, and of no others. `totals` sums what processes counted,
    `troubles` is how many things stand in the controller's way, `drift` looks at the rows of the versions that are watched, and
    `counted_since_s` is since when `totals` sums. `records` are those of the whole audit, by number and count, `audit_head` is
    its tree, `audit_pruned` that over the records that are gone, and `audit_signer` signs it. `seen_callers` is how many callers
    of models are remembered; `act_told` counts one more act that a caller tells of, and says how many these are in this minute.
    `branches` are those that there are of subject keys, sealed, by what they are stored as.
    """

    state: State
    apps: Mapping[str, AppState]
    feeds: Mapping[str, FeedState]
    tick_s: float
    now_s: float
    audit: Callable[[str], list[AuditEvent]]
    faults: Mapping[str, str]
    actor: str
    caller: Caller = CLUSTER
    totals: Callable[[], MetricTotals] = MetricTotals
    history: Callable[[], list[HistoryPoint]] = list
    troubles: int = 0
    drift: Callable[[], Mapping[VersionId, DriftLook]] = dict
    counted_since_s: float = 0.0
    records: Callable[[int, int], list[AuditRecord]] = _no_records
    audit_head: Callable[[], TreeHead] = TreeHead
    audit_pruned: Callable[[], TreeHead] = TreeHead
    audit_signer: AuditSigner | None = None
    branches: Callable[[Sequence[str]], Mapping[str, bytes]] = _no_branches
    seen_callers: int = 0
    act_told: Callable[[str], int] = _first


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What to save and what to answer; `prune` is the tree over the audit's records that are to go, `branches` those of subject
    keys that are to be stored."""

    state: State
    answer: Message
    events: tuple[AuditEvent, ...] = ()
    prune: TreeHead | None = None
    branches: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommandEntry(Generic[Q, A]):
    """One command: its name on the wire, what is asked, what is answered, and what it does to the state.

    `summary` is a line for people. `asks` says what its caller must be allowed, in that state and by that request. One that
    `looks` changes nothing, so it may be asked again whatever became of the first time. One that is not `told` leaves no event of
    its own in the audit.
    """

    name: str
    request: type[Q]
    answer: type[A]
    run: Callable[[Context, Q], CommandResult]
    summary: str
    asks: Callable[[State, Q], Asks]
    looks: bool = False
    told: bool = True
