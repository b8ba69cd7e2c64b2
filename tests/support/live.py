"""A whole service on the tests' Ray: controller, gateway, one model; and callers that check every answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psutil
import ray
from ray import serve

from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.rollouts import RolloutView
from cluster.commands.versions import RegisterVersion
from cluster.errors import HeadraceError, Unreachable
from cluster.versions import BuiltQuality
from deployments.artifacts.manifest import Manifest
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE, connect
from deployments.engines.load import load_engine
from deployments.gateway.deployment import APP, GatewaySettings, start_gateway
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from headrace.client import ControlClient
from headrace.controller_actor import FLEET
from headrace.controller_start import start_controller
from headrace.local.home import Settings
from headrace.local.home_key import home_key
from tests.conftest import RayCluster
from tests.support.models import INPUT, OUTPUT, rows

ROWS = 64
Artifact = tuple[str, str, Manifest]


@dataclass
class Service:
    """One model, `name`, behind the gateway at `url`."""

    name: str
    url: str
    control: ControlClient

    def register(self, artifact: Artifact, quality: BuiltQuality | None = None) -> int:
        """Makes the artifact the next version; its rollout starts by itself unless the plan says otherwise."""
        uri, digest, manifest = artifact
        about = {"engine": manifest.engine, "signature": manifest.signature, "quality": quality}
        request = RegisterVersion(model=self.name, artifact_uri=uri, digest=digest, **about)
        return self.control.register_version(request).version

    def apply(self, serving: dict[str, Any], plan: dict[str, Any], **more: Any) -> None:
        """Applies the model's document, with `more` sections."""
        document = {"name": self.name, "serving": serving, "rollout": plan, **more}
        self.control.apply(Apply(models=(ModelDocument.model_validate(document),)))

    def label_keys(self, count: int) -> list[str]:
        """Those that came with one answer of so many rows; none where answers have none."""
        image = rows(count, seed=7)
        tensor = {"name": INPUT, "shape": list(image.shape), "datatype": "FP32", "data": image.ravel().tolist()}
        answer = httpx.post(
            f"{self.url}/v2/models/{self.name}/infer", json={"inputs": [tensor]}, timeout=120, trust_env=False
        ).json()
        return [key for key in answer.get("parameters", {}).get("label_keys", "").split(",") if key]

    def version_of(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Which version answers a caller of the gateway, by routing key."""
        tensor = {"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": rows(1, seed=7).ravel().tolist()}
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            answers = {
                key: client.post(
                    f"/v2/models/{self.name}/infer", json={"inputs": [tensor], "parameters": {"routing_key": key.decode()}}
                ).json()
                for key in keys
            }
        return {key: int(answer["model_version"]) for key, answer in answers.items()}

    def seen(self, wanted: Callable[[RolloutView], bool], timeout_s: float = 240.0) -> RolloutView:
        """The rollout as soon as it is as wanted; the controller may be away meanwhile."""
        last: RolloutView | HeadraceError | None = None
        pause = threading.Event()
        for _ in range(round(timeout_s / 0.1)):
            try:
                last = self.control.rollout(self.name)
            except Unreachable as error:
                last = error
            if isinstance(last, RolloutView) and wanted(last):
                return last
            pause.wait(0.1)
        raise AssertionError(f"never seen; last: {last}")

    def ended_last(self) -> RolloutView:
        """The last rollout, at its end."""
        return self.seen(lambda rollout: rollout.ended_s is not None)

    def ended(self, candidate: int) -> RolloutView:
        """The rollout of the candidate, at its end."""
        return self.seen(lambda rollout: rollout.candidate == candidate and rollout.ended_s is not None)


@contextmanager
def running(
    cluster: RayCluster, settings: Settings, name: str, gateway: GatewaySettings | None = None, *, fleet: str = FLEET
) -> Iterator[Service]:
    """Controller and gateway, ended at the end with all that runs of the model and of others whose names begin so."""
    try:
        start_controller(settings, fleet=fleet, timeout_s=240)
        start_gateway(replace(gateway or GatewaySettings(), http_port=cluster.http_port))
        with ControlClient(cluster.http_url, timeout_s=60.0, token=home_key(settings.home)) as control:
            yield Service(name, cluster.http_url, control)
    finally:
        end_controller()
        apps = [APP, *(app for app in serve.status().applications if app.startswith(f"{name}-"))]
        for blocking in (False, True):  # all at once, since each takes its time to end
            for app in apps:
                serve.delete(app, _blocking=blocking)


def controller_process() -> psutil.Process:
    """The controller's process."""
    about = ray.get(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE).about.remote(), timeout=60)
    return psutil.Process(about["pid"])


def end_controller() -> None:
    """Ends it for good, where there is one."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE), no_restart=True)


@dataclass
class Load:
    """What callers have met. `failures` holds the first words of every call that did not go as it should."""

    calls: int = 0
    failures: list[str] = field(default_factory=list)
    _more: threading.Condition = field(default_factory=threading.Condition)

    def count(self, failure: str | None) -> None:
        """One call has ended."""
        with self._more:
            self.calls += 1
            if failure is not None:
                self.failures.append(failure)
            self._more.notify_all()

    def await_calls(self, more: int, timeout_s: float = 120.0) -> None:
        """Returns after so many more calls."""
        with self._more:
            target = self.calls + more
            assert self._more.wait_for(lambda: self.calls >= target, timeout_s), "the callers stand still"


@contextmanager
def loaded(
    service: Service, artifact: Artifact, *, bright: float = 0.05, gateway: int = 2, scorers: int = 1, count: int = ROWS
) -> Iterator[Load]:
    """Callers of the gateway and of scorers of their own, at it all the time, `count` rows a call.

    Every answer must be that of `artifact`. `bright` is the share of rows whose first feature is above 0.5: some versions in
    tests.support.models can't bear them.
    """
    image = rows(count, seed=7)
    image[: round(bright * count), 0] = 0.9
    want = load_engine(Path(artifact[0])).score({INPUT: image})[OUTPUT]
    load, stop = Load(), threading.Event()
    callers: list[Callable[[], None]] = [lambda: _by_gateway(service, image, want, load, stop)] * gateway
    callers += [lambda: _by_scorer(service, image, want, load, stop)] * scorers
    threads = [threading.Thread(target=caller, name="caller") for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# Between two calls of one caller: what is under test needs the cores too.
PAUSE_S = 0.02


def _by_gateway(service: Service, image: np.ndarray, want: np.ndarray, load: Load, stop: threading.Event) -> None:
    tensor = {"name": INPUT, "shape": list(image.shape), "datatype": "FP32", "parameters": {"binary_data_size": image.nbytes}}
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    url = f"{service.url}/v2/models/{service.name}/infer"
    with httpx.Client(timeout=120, trust_env=False) as client:
        while not stop.wait(PAUSE_S):
            try:
                answer = client.post(
                    url, content=header + image.tobytes(), headers={"Inference-Header-Content-Length": str(len(header))}
                )
            except httpx.HTTPError as error:
                load.count(repr(error))
                continue
            if answer.status_code != 200:
                load.count(f"{answer.status_code} {answer.text[:300]}")
                continue
            found = np.frombuffer(answer.content[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)
            load.count(_difference(found.reshape(want.shape), want))


def _by_scorer(service: Service, image: np.ndarray, want: np.ndarray, load: Load, stop: threading.Event) -> None:
    random = np.random.default_rng(1)
    with ScorerThread(lambda: RoutedScorer(connect())) as scorer:
        while not stop.wait(PAUSE_S):
            try:
                scored = scorer.score(service.name, {INPUT: image}, [random.bytes(8) for _ in range(len(image))])
            except HeadraceError as error:
                load.count(str(error))
                continue
            errors = "; ".join(str(error) for error in scored.errors.values())
            load.count(errors[:300] or _difference(scored.outputs[OUTPUT], want))


def _difference(found: np.ndarray, want: np.ndarray) -> str | None:
    return None if np.allclose(found, want, atol=1e-4) else "another answer than stable's"
