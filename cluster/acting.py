"""Doing what was decided: each action by itself, so that one that fails keeps no other from being done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.errors import Conflict, HeadraceError, Unreachable
from cluster.fleet.desired import Action, Deploy, RemoveArtifact, Retire, Scale, StartFeed, StopFeed, concerns
from cluster.ports import Feeds, Fleet, Jobs
from cluster.schedule.fires import RunCommand, StopJob, SubmitJob, SubmitPreflight

_log = logging.getLogger(__name__)


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


class ActionRunner:
    """Acts on the world. Used from one thread."""

    def __init__(self, fleet: Fleet, feeds: Feeds, jobs: Jobs, remove_artifact: Callable[[str], None]) -> None:
        self._fleet, self._feeds, self._jobs, self._remove_artifact = fleet, feeds, jobs, remove_artifact

    def run(self, actions: Sequence[Action], before_each: Callable[[], None]) -> ActionResult:
        """Does them all."""
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
