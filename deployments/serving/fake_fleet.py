"""A fleet in memory, for tests of what decides over it. It passes the contract suite of the real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.errors import Conflict, NotFound, Unreachable
from cluster.fleet.serving import ScalingMode, Serving
from cluster.ports import AppState, AppStatus
from cluster.versions import Version


class FakeFleet:
    """Implements `Fleet`. An app is READY after `ready_after` calls of `state`, or at `make_ready`; `fail` breaks it.

    `deployed` and `retired` list what was really done, in order: a repeated call adds nothing.
    `away` makes every call raise Unreachable.
    """

    def __init__(self, ready_after: int | None = 1) -> None:
        """`ready_after` None: only `make_ready` makes an app READY."""
        self.deployed: list[str] = []
        self.retired: list[str] = []
        self.away = False
        self._ready_after = ready_after
        self._apps: dict[str, AppState] = {}
        self._manual: set[str] = set()
        self._looks: dict[str, int] = {}
        self._doomed: dict[str, tuple[str, bool]] = {}
        self._held_back: set[str] = set()

    def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
        """See `Fleet.deploy`."""
        self._reach()
        app = version.id.app
        if app in self._apps:
            return
        self.deployed.append(app)
        self._looks[app] = 0
        if serving.scaling.mode is ScalingMode.MANUAL:
            self._manual.add(app)
        self._apps[app] = AppState(app, AppStatus.STARTING, 0, max(replicas, 1))

    def state(self) -> Mapping[str, AppState]:
        """See `Fleet.state`. An app that was retired is gone at the second look."""
        self._reach()
        for app, seen in list(self._apps.items()):
            self._looks[app] += 1
            if seen.status is AppStatus.STOPPING and self._looks[app] > 1:
                self._forget(app)
            elif seen.status is AppStatus.STARTING and app in self._doomed:
                message, transient = self._doomed[app]
                self.fail(app, message, transient=transient)
            elif seen.status is AppStatus.STARTING and self._starts(app):
                self.make_ready(app)
            elif seen.status is AppStatus.READY:
                self._apps[app] = replace(seen, replicas=seen.target_replicas)
        return dict(self._apps)

    def scale(self, app: str, replicas: int) -> None:
        """See `Fleet.scale`."""
        self._reach()
        if app not in self._apps:
            raise NotFound("no such app", where=app, remedy="name a version that is deployed")
        if app not in self._manual:
            raise Conflict("it scales on its own", where=app, remedy="set `scaling: manual` in the Model document")
        self._apps[app] = replace(self._apps[app], target_replicas=replicas)

    def retire(self, app: str) -> None:
        """See `Fleet.retire`."""
        self._reach()
        seen = self._apps.get(app)
        if seen is None or seen.status is AppStatus.STOPPING:
            return
        self.retired.append(app)
        self._looks[app] = 0
        self._apps[app] = replace(seen, status=AppStatus.STOPPING)

    def make_ready(self, app: str) -> None:
        """All of the app's replicas are up."""
        seen = self._apps[app]
        self._apps[app] = replace(seen, status=AppStatus.READY, replicas=seen.target_replicas, message="", transient=False)

    def fail(self, app: str, message: str, *, transient: bool = False) -> None:
        """The app's replicas could not start; `transient`: for what is none of the version's."""
        failed = replace(self._apps[app], status=AppStatus.FAILED, replicas=0)
        self._apps[app] = replace(failed, message=message, transient=transient)

    def doom(self, app: str, message: str, *, transient: bool = False) -> None:
        """The app will fail to start whenever it is deployed, until `mend`."""
        self._doomed[app] = message, transient

    def mend(self, app: str) -> None:
        """The app will start when it is deployed next; what has failed stays failed."""
        del self._doomed[app]

    def hold_back(self, app: str) -> None:
        """The app will stay STARTING, as where no node has room for it, until `make_ready`."""
        self._held_back.add(app)

    def sicken(self, app: str, message: str, *, transient: bool = False) -> None:
        """None of the app's replicas answers any more."""
        ill = replace(self._apps[app], status=AppStatus.UNHEALTHY, replicas=0)
        self._apps[app] = replace(ill, message=message, transient=transient)

    def scale_by_hand(self, app: str, replicas: int) -> None:
        """Somebody scaled the app in the dashboard."""
        self._apps[app] = replace(self._apps[app], target_replicas=replicas)

    def vanish(self, app: str) -> None:
        """The app is gone without a word, as after the loss of the cluster."""
        self._forget(app)

    def _starts(self, app: str) -> bool:
        return self._ready_after is not None and self._looks[app] > self._ready_after and app not in self._held_back

    def _forget(self, app: str) -> None:
        del self._apps[app]
        del self._looks[app]
        self._manual.discard(app)

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("the fleet is away", where="ray", remedy="start the cluster")
