"""The world as the controller meets it: looked at, and acted on. Who is away there keeps nobody else from being looked after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.errors import Conflict, HeadraceError, Unreachable
from cluster.fleet.desired import Action, Deploy, RemoveArtifact, Retire, Scale, StartFeed, StopFeed, concerns
from cluster.ports import AppState, AppStatus, Feeds, FeedState, Fleet, Jobs
from cluster.schedule.jobs import JobSeen, RunCommand, StopJob, SubmitJob, SubmitPreflight
from cluster.troubles import TroubleLog

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorldSeen:
    """The world at a look, which was at `at_s` (Unix; 0: never). `feeds` and `jobs` are None where they could not be asked."""

    apps: Mapping[str, AppState] = field(default_factory=dict)
    feeds: Mapping[str, FeedState] | None = None
    jobs: Mapping[str, JobSeen] | None = None
    at_s: float = 0.0

    @property
    def is_as_wanted(self) -> bool:
        """Whether all could be asked, and every version has the replicas that it should have."""
        apps = self.apps.values()
        return self.feeds is not None and all(
            one.status is AppStatus.READY and one.replicas == one.target_replicas for one in apps
        )


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of some actions. `refused` has why, by app, by job, or by the URI of an artifact; `unscalable` are the models
    that the fleet would not scale, `removed` the URIs of artifacts that are gone; `faults` are mistakes of ours, by whom they
    concern; `troubles` is for each kind of action why it could not be done, "" where it was.
    """

    refused: Mapping[str, str] = field(default_factory=dict)
    unscalable: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    faults: Mapping[str, Exception] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)


class World:
    """The fleet, the feeds, the jobs, and the artifacts that are to go. Used from one thread."""

    def __init__(
        self,
        fleet: Fleet,
        feeds: Feeds,
        jobs: Jobs,
        remove_artifact: Callable[[str], None],
        clock: Callable[[], float],
        troubles: TroubleLog,
    ) -> None:
        """`troubles` is told who is away."""
        self._fleet, self._feeds, self._jobs, self._remove_artifact = fleet, feeds, jobs, remove_artifact
        self._clock, self._troubles = clock, troubles

    def look(self, jobs_to_ask: Callable[[], Collection[str]]) -> WorldSeen | None:
        """None where the fleet is away; else what is seen, of the jobs of those that are to be asked."""
        apps = self._patiently("fleet", self._fleet.state)
        if apps is None:
            return None
        asked = jobs_to_ask()
        feeds = self._patiently("feeds", self._feeds.state)
        jobs = self._patiently("jobs", lambda: self._jobs.state(asked)) if asked else {}
        return WorldSeen(apps, feeds, jobs, self._clock())

    def _patiently(self, asked: str, ask: Callable[[], T]) -> T | None:
        """None where it is away."""
        try:
            seen = ask()
        except Unreachable as trouble:
            self._troubles.note(asked, str(trouble))
            return None
        self._troubles.note(asked, "")
        return seen

    def act(self, actions: Sequence[Action], before_each: Callable[[], None]) -> ActionResult:
        """Does them all, each by itself: one that fails keeps no other from being done."""
        refused, faults, unscalable, removed = dict[str, str](), dict[str, Exception](), set[str](), set[str]()
        troubles = dict[str, str]()
        for action in actions:
            before_each()
            kind = type(action).__name__
            try:
                self._do(action)
                troubles.setdefault(kind, "")
                if isinstance(action, RemoveArtifact):
                    removed.add(action.uri)
            except Unreachable as error:
                trouble = troubles[kind] = str(error)
                match action:
                    case RemoveArtifact(_, uri):
                        refused[uri] = trouble
                    case SubmitJob(job) | SubmitPreflight(job) | RunCommand(job):
                        refused[job] = trouble
            except HeadraceError as refusal:
                _log.warning("%s: %s", kind, refusal)
                match action:
                    case Deploy(version):
                        refused[version.id.app] = str(refusal)
                    case StartFeed(feed):
                        refused[feed.app] = str(refusal)
                    case RemoveArtifact(_, uri):
                        refused[uri] = str(refusal)
                    case SubmitJob(job) | SubmitPreflight(job) | RunCommand(job):
                        refused[job] = str(refusal)
                    case Scale(_, model) if isinstance(refusal, Conflict):
                        unscalable.add(model)
            except Exception as fault:  # noqa: BLE001 - a mistake of ours in one must not keep all others from being done
                faults[concerns(action) or kind] = fault
        return ActionResult(refused, frozenset(unscalable), frozenset(removed), faults, troubles)

    def _do(self, action: Action) -> None:
        match action:
            case Deploy(version, serving, replicas):
                self._fleet.deploy(version, serving, replicas)
            case Retire(app):
                self._fleet.retire(app)
            case Scale(app, _, replicas):
                self._fleet.scale(app, replicas)
            case StartFeed(feed):
                self._feeds.start(feed)
            case StopFeed(name):
                self._feeds.stop(name)
            case SubmitJob() | SubmitPreflight() | RunCommand():
                self._jobs.submit(action)
            case StopJob(job):
                self._jobs.stop(job)
            case RemoveArtifact(_, uri):
                self._remove_artifact(uri)
