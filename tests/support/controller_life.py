"""Lives of a controller over a real SQLite store, each a process that may kill itself with SIGKILL at a given place.

`python -m tests.support.controller_life FOLDER` takes scenarios through every such place and writes one line of JSON
for each: where it was killed, how it died, and what a controller that came after it ended with.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.controller import Controller, Point
from cluster.fleet.serving import Serving
from cluster.ports import AppState, AppStatus
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey
from cluster.routing.table import digest_of
from cluster.store.sql import SqlStore
from cluster.versions import Version
from consumers.batch.schedule.fake_jobs import FakeJobs
from deployments.control.fake_control import NoFeeds
from deployments.serving.fake_fleet import FakeFleet
from tests.support.brain import SIGNATURE

PLAN: dict[str, Any] = {
    "steps": [{"shadow": 50, "bake_s": 1}, {"weight": 10, "bake_s": 2}, {"weight": 100, "bake_s": 1}],
    "checks": {"error_rate": {"margin": 0.02}, "disagreement": {"margin": 0.05}},
    "deadline_s": 1000,
    "keep_warm_s": 2,
}
GOOD = Counts(rows=4000, compared=4000)
# What version 2 does in each scenario: errors a step, by its state; or it never starts.
SCENARIOS: dict[str, Mapping[str, Counts] | None] = {
    "good": {},
    "bad": {"canary": Counts(rows=400, errors=100)},
    "broken": None,
    "replaced": {},  # in its canary a person starts version 3 instead
}
MOST_TICKS = 60


class FileFleet(FakeFleet):
    """A fleet that outlives the controller's process, as the real one does: everything of it is in a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        if file.exists():
            self.__dict__.update(pickle.loads(file.read_bytes()))  # noqa: S301 - our own
        self._file = file

    def state(self) -> Mapping[str, AppState]:
        return self._kept(super().state())

    def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
        self._kept(super().deploy(version, serving, replicas))

    def retire(self, app: str) -> None:
        self._kept(super().retire(app))

    def _kept(self, answer: Any) -> Any:
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(pickle.dumps(self.__dict__))
        fresh.replace(self._file)
        return answer


class Life:
    """One controller's, from its start until nothing is left to do, or until it kills itself at `kill_at`."""

    def __init__(self, folder: Path, scenario: str, kill_at: str = "") -> None:
        self.folder, self.scenario, self.kill_at = folder, scenario, kill_at
        self.passed: list[str] = []
        self.place = "start"
        self.clock_file = folder / "clock"
        self.fleet = FileFleet(folder / "fleet")
        self.store = SqlStore(f"sqlite:///{folder / 'store.db'}")
        self.controller = Controller(self.store, self.fleet, NoFeeds(), FakeJobs(), self.now_s, self.hook)

    def now_s(self) -> float:
        return float(self.clock_file.read_text()) if self.clock_file.exists() else 1000.0

    def hook(self, point: Point) -> None:
        if point is Point.PUBLISHED:
            self.check_table()
        here = f"{self.place}, {point}"
        self.passed.append(here)
        if here == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def check_table(self) -> None:
        """No split that was not saved, and none with a version that is not ready."""
        with sqlite3.connect(self.folder / "store.db") as other:
            (document,) = other.execute("SELECT document FROM control WHERE key = 'state'").fetchone()
        other.close()
        saved, table = json.loads(document), self.controller.table
        assert (saved["table"], saved["table_digest"]) == (table.number, digest_of(table)), "a split that was not saved"
        seen = FakeFleet.state(FileFleet(self.folder / "fleet"))
        for route in table.routes.values():
            assert all(seen[target.app].status is AppStatus.READY for target in route.targets.values()), "not ready"

    def begin(self) -> None:
        """Version 1 is stable; version 2 is there, and starts its rollout at the next tick."""
        if SCENARIOS[self.scenario] is None:
            self.fleet.doom("digits--v2", "no such operator")
        self.register(1)
        self.controller.call("apply", {"models": [{"name": "digits", "rollout": PLAN}]})
        while "digits" not in self.controller.table.routes:
            self.tick()
        self.register(2)

    def register(self, number: int) -> None:
        about = {"artifact_uri": f"file:///{number}", "digest": f"d{number}", "engine": "onnx", "signature": SIGNATURE}
        self.controller.call("version.register", {"model": "digits", **about})

    def tick(self) -> None:
        self.clock_file.write_text(str(self.now_s() + 1))
        self.controller.tick()

    def go(self) -> None:
        """Until only the stable version is left. A person pauses a good rollout once in its second step, for one tick."""
        for _ in range(MOST_TICKS):
            rollout = self.rollout()
            if (self.scenario, rollout["state"], rollout["step"]) == ("good", "canary", 2) and not self.was_paused():
                self.controller.call("rollout.pause", {"model": "digits"})
                rollout = self.rollout()
            if (self.scenario, rollout["candidate"], rollout["state"]) == ("replaced", 2, "canary"):
                self.register(3)
                self.controller.call("rollout.start", {"model": "digits", "version": 3, "plan": "instant", "supersede": True})
                rollout = self.rollout()
            places = {1: "before", 2: f"{rollout['state']} {rollout['step']}", 3: f"superseded, then {rollout['state']}"}
            self.place = places[rollout["candidate"]]
            self.tick()
            if self.rollout()["paused"]:
                self.controller.call("rollout.resume", {"model": "digits"})
            self.score()
            last = 3 if self.scenario == "replaced" else 2
            if self.rollout()["ended_s"] and rollout["candidate"] == last and len(FakeFleet.state(self.fleet)) == 1:
                return
        raise AssertionError(f"it never came to an end; last {self.place}")

    def rollout(self) -> dict[str, Any]:
        rollout: dict[str, Any] = self.controller.call("rollout.status", {"model": "digits"})["rollout"]
        return rollout

    def was_paused(self) -> bool:
        return any(event.event == "paused" for event in self.store.audit("digits"))

    def score(self) -> None:
        route = self.controller.table.routes.get("digits")
        if route is None or route.candidate is None:
            return
        known = SCENARIOS[self.scenario] or {}
        theirs = known.get("canary" if route.weight else "shadow", GOOD)
        counts = {EvidenceKey("digits", route.stage, 1): GOOD, EvidenceKey("digits", route.stage, 2): theirs}
        self.controller.push(EvidenceBatch("scorer", int(self.now_s()), counts))

    def end(self) -> dict[str, Any]:
        """What is to be the same whoever was killed where."""
        state = self.store.load()
        return {
            "rollouts": [[r.id, r.stable, r.candidate, r.state, r.step] for r in state.rollouts.values()],
            "stable": state.models["digits"].stable,
            "apps": {name: app.status for name, app in self.fleet.state().items()},
            "transitions": [[event.rollout, event.event] for event in self.store.audit("digits") if event.rollout is not None],
            "evidence": len(state.evidence),
        }


def fork(folder: Path, scenario: str, kill_at: str) -> int:
    """Runs a life in a process of its own; its exit status, as `os.waitstatus_to_exitcode` tells it."""
    pid = os.fork()
    if pid == 0:
        try:
            life = Life(folder, scenario, kill_at)
            life.go()
            (folder / "end").write_text(json.dumps({"end": life.end(), "passed": life.passed}))
        except BaseException as error:  # noqa: BLE001 - what goes wrong in the fork must not run on as a second driver
            sys.stderr.write(f"{scenario}, {kill_at}: {error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tell(scenario: str, at: str, died: int, end: dict[str, Any] | None) -> None:
    sys.stdout.write(json.dumps({"scenario": scenario, "at": at, "died": died, "end": end}) + "\n")
    sys.stdout.flush()  # or the next fork writes it again


def main() -> None:
    root = Path(sys.argv[1])
    seen: set[str] = set()
    for scenario in SCENARIOS:
        begun = root / scenario
        begun.mkdir()
        first = Life(begun, scenario)
        first.begin()
        first.store.close()
        undisturbed = shutil.copytree(begun, root / f"{scenario}-undisturbed")
        died = fork(undisturbed, scenario, "")
        told = json.loads((undisturbed / "end").read_text())
        tell(scenario, "", died, told["end"])
        for number, place in enumerate(dict.fromkeys(told["passed"])):
            if place in seen and scenario != "good":
                continue  # the same place on the way there
            seen.add(place)
            folder = shutil.copytree(begun, root / f"{scenario}-{number}")
            died = fork(folder, scenario, place)
            after = fork(folder, scenario, "")
            end = json.loads((folder / "end").read_text())["end"] if after == 0 else None
            tell(scenario, place, died, end)


if __name__ == "__main__":
    main()
