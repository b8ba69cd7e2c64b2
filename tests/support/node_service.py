"""A service on several machines: a head that scores nothing, workers with a gateway each, one model, and a stream of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import httpx
import numpy as np
import psutil
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from cluster.commands.documents import Apply, FeedDocument, ModelDocument
from cluster.commands.feeds import FeedName
from cluster.commands.versions import RegisterVersion
from cluster.errors import HeadraceError
from consumers.stream.spec import ConsumerScaling, Format, StreamInput, StreamOutput, StreamSpec, Topic
from deployments.engines.load import load_engine
from headrace.client import ControlClient
from headrace.local import broker
from headrace.local.home import Home
from headrace.local.home_key import home_key
from headrace.local.ports import free_port
from tests.support.broker import jar_cache
from tests.support.live import Artifact
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.support.net_nodes import STARTS_S, NetNode, Network, network
from tests.support.redis_server import redis_at
from tests.support.stream_topics import Topics
from tests.support.waiting import until

HTTP, RAY = 8000, 6379
MODEL, STREAM = "digits", "flow"
WORKER = ("--num-cpus=2", '--resources={"headrace_gateway": 1}')
# No two of them fit on a machine of two CPUs: each has one, beside one replica.
STREAM_CPUS, REPLICA_CPUS = 1.1, 0.5
AWAY = (httpx.HTTPError,)
UNHEARD = (httpx.HTTPError, HeadraceError)
HEADRACE = str(Path(sys.executable).with_name("headrace"))


def tell(line: str) -> None:
    """For who watches: what was measured."""
    sys.stdout.write(f"\n{line}\n")


@dataclass
class NodeService:
    """What runs. `workers[1]` stays in every test: commands come in there, as by a Service. `answered` counts calls that were
    answered, `unsure` those that were not, which may have been counted even so."""

    network: Network
    head: NetNode
    workers: list[NetNode]
    topics: Topics
    control: ControlClient
    image: np.ndarray
    want: np.ndarray
    head_variables: dict[str, str]
    keep: bool
    answered: int = 0
    unsure: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """That of its Ray."""
        return f"{self.head.address}:{RAY}"

    def url(self, node: NetNode) -> str:
        """Of the node's door."""
        return f"http://{node.address}:{HTTP}"

    def ask(self, node: NetNode, client: httpx.Client) -> None:
        """One call at that node's door, whose answer must be right. Raises httpx.HTTPError."""
        tensor = {"name": INPUT, "shape": list(self.image.shape), "datatype": "FP32", "data": self.image.ravel().tolist()}
        try:
            answer = client.post(f"{self.url(node)}/v2/models/{MODEL}/infer", json={"inputs": [tensor]}).raise_for_status()
        except httpx.HTTPError:
            with self.lock:
                self.unsure += 1
            raise
        with self.lock:
            self.answered += 1
        np.testing.assert_allclose(np.reshape(answer.json()["outputs"][0]["data"], self.want.shape), self.want, atol=1e-5)

    def answers(self, node: NetNode) -> bool:
        with httpx.Client(timeout=5, trust_env=False) as client:
            self.ask(node, client)
        return True

    def await_answers(self, *nodes: NetNode, limit_s: float = STARTS_S) -> None:
        """Returns once each of these doors has answered."""
        for node in nodes:
            until(lambda node=node: self.answers(node), limit_s, every_s=0.2, trouble=AWAY)

    def await_control(self, limit_s: float = STARTS_S) -> None:
        """Returns once the controller answers."""
        until(lambda: self.control.status() is not None, limit_s, every_s=0.2, trouble=UNHEARD)

    def join(self, node: NetNode) -> None:
        join(self.head, node, keep=self.keep)

    def another(self) -> NetNode:
        """One more machine, which has joined."""
        fresh = self.network.node()
        self.join(fresh)
        return fresh

    def start_head(self) -> None:
        start_head(self.head, **self.head_variables)

    def end_head(self) -> None:
        """All that runs there dies but `up --join`, which is a container of its own; the next Ray finds an empty disk."""
        ray, joiner = self.head.processes
        for process in self.head.pids():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid != joiner.pid and "headrace" not in " ".join(process.cmdline()[:3]):
                    process.kill()
        ray.wait(30)
        self.head.processes[:] = [joiner]
        self.head.wipe()

    def streams_on(self, node: NetNode) -> bool:
        """Whether a consumer of the stream runs there."""
        pids = {int(worker["pid"]) for worker in self.control.feed(FeedName(kind="stream", name=STREAM)).workers}
        return any(process.pid in pids for process in node.pids())

    def caught_up(self) -> bool:
        """Whether the stream has answered what was published before this was asked."""
        published = self.topics.published
        return self.topics.outputs() + len(self.topics.read(self.topics.spec.dead_letters.topic)) >= published

    def settle_stream(self) -> None:
        """Waits until all is out; then each record is there once, in the order of its key."""
        until(self.caught_up, STARTS_S, every_s=0.2)
        self.topics.check()

    def requests(self, node: NetNode) -> float:
        """How many calls of the model were answered, as that gateway's page of metrics says. Raises httpx.HTTPError."""
        page = httpx.get(f"{self.url(node)}/metrics", timeout=30, trust_env=False).raise_for_status().text
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return sum(
            each.value
            for each in samples
            if each.name == "headrace_requests_total" and (each.labels["model"], each.labels["outcome"]) == (MODEL, "ok")
        )

    def settled_requests(self, node: NetNode) -> float:
        """The same once it stands still for longer than gateways keep counts to themselves."""
        seen: list[float] = []

        def stands() -> bool:
            seen.append(self.requests(node))
            return len(seen) > 1 and seen[-1] == seen[-2]

        until(stands, STARTS_S, every_s=3.0, trouble=AWAY)
        return seen[-1]

    def start_batch(self, document: Path, output: Path) -> subprocess.Popen[bytes]:
        """`headrace batch run` on the head."""
        key = {"HEADRACE_TOKEN": home_key(Home(self.network.folder / "home"))}
        where = {"RAY_ADDRESS": self.address, "HEADRACE_URL": self.url(self.workers[1])}
        started = self.head.spawn(HEADRACE, "batch", "run", str(document), "--json", log=f"{output.name}.log", **where, **key)
        self.head.processes.remove(started)  # not of what `end_head` knows
        return started


@dataclass
class Callers:
    """Calls at the doors of `nodes`, one after the other, as by a Service; `failed` are the first words of those that failed."""

    service: NodeService
    nodes: list[NetNode]
    calls: int = 0
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Callers:
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self.stop.wait(0.05):
                nodes = list(self.nodes)
                try:
                    self.service.ask(nodes[number % len(nodes)], client)
                except httpx.HTTPError as error:
                    self.failed.append(f"{nodes[number % len(nodes)].address}: {error!r}"[:300])
                self.calls += 1
                number += 1

    def await_more(self, more: int) -> None:
        wanted = self.calls + more
        until(lambda: self.calls >= wanted, STARTS_S)


def start_head(node: NetNode, *words: str, **variables: str) -> None:
    """Ray's head there; by itself it has no CPUs. Without dashboard and monitor: a dozen processes that nothing here asks."""
    cpus = () if words else ("--num-cpus=0",)
    bare = ("--include-dashboard=false", "--no-monitor", f"--temp-dir={node.folder}/r")
    node.start_ray("--head", f"--port={RAY}", *cpus, *bare, *words, **variables)


def join(head: NetNode, node: NetNode, *, keep: bool) -> None:
    """Ray there, which may have a gateway. `keep`: one that ends is started again."""
    node.start_ray(f"--address={head.address}:{RAY}", *WORKER, keep=keep)


def start_joined(head: NetNode, url: str, gateways: int, *more: str) -> subprocess.Popen[bytes]:
    """`headrace up --join` beside it, whose callers come in at `url`."""
    words = ("up", "--join", "--host=0.0.0.0", "--insecure", f"--gateways={gateways}", "--gateways-on=headrace_gateway", *more)
    where = {"RAY_ADDRESS": f"{head.address}:{RAY}", "HEADRACE_URL": url}
    return head.spawn(HEADRACE, *words, log=f"{head.namespace}-join.log", **where)


def empty(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()


@contextlib.contextmanager
def log_at(address: str, folder: Path) -> Iterator[str]:
    """A Kafka at an address of this machine that others reach; its bootstrap address."""
    with mock.patch.object(broker, "HOST", address):
        try:
            yield broker.start_broker(folder, port=free_port(address), cache=jar_cache()).bootstrap
        finally:
            broker.stop_broker(folder)


@contextlib.contextmanager
def node_service(
    store_url: str, folder: Path, *, keep: bool = False, redis: bool = False, **variables: str
) -> Iterator[NodeService]:
    """A head and two workers that answer, and a stream that stands ready. `variables` are each machine's. `keep`: workers' Ray
    that ends is started again on the same machine. `redis`: the head keeps in one what it knows."""
    artifact, image = mlp_artifact(folder / "artifacts", model=MODEL), rows(8)
    want = load_engine(Path(artifact[0])).score({INPUT: image})[OUTPUT]
    empty(store_url)
    with contextlib.ExitStack() as open_ones:
        net = open_ones.enter_context(network(store_url, **variables))
        brokers = open_ones.enter_context(log_at(net.gateway, folder / "kafka"))
        stored = {"RAY_REDIS_ADDRESS": open_ones.enter_context(redis_at(net.gateway, folder))} if redis else {}
        open_ones.callback(net.kill)  # before what they would miss
        head, workers = net.node(), [net.node(), net.node()]
        url, home = f"http://{workers[1].address}:{HTTP}", Home(net.folder / "home")
        start_head(head, **stored)
        for node in workers:
            join(head, node, keep=keep)
        start_joined(head, url, gateways=2)
        until(home.key.exists, STARTS_S)
        control = open_ones.enter_context(ControlClient(url, timeout_s=60, token=home_key(home)))
        topics = Topics(brokers, _stream(brokers), _record)
        open_ones.callback(topics.close)
        made = NodeService(net, head, workers, topics, control, image, want, stored, keep)
        until(lambda: httpx.get(f"{url}/v2/health/live", trust_env=False).is_success, STARTS_S, every_s=0.5, trouble=AWAY)
        made.await_control()
        _serve(made, artifact)
        yield made


def _serve(service: NodeService, artifact: Artifact) -> None:
    uri, digest, manifest = artifact
    serving = {"resources": {"cpus": REPLICA_CPUS}, "scaling": {"mode": "manual", "replicas": 2}}
    model = ModelDocument.model_validate({"name": MODEL, "serving": serving, "rollout": {}})
    spec = service.topics.spec.model_dump(mode="json")
    feed = FeedDocument(kind="stream", name=STREAM, model=MODEL, spec=spec)
    service.control.apply(Apply(models=(model,)))
    about = {"engine": manifest.engine, "signature": manifest.signature}
    service.control.register_version(RegisterVersion(model=MODEL, artifact_uri=uri, digest=digest, **about))
    service.await_answers(*service.workers)
    service.control.apply(Apply(models=(model,), feeds=(feed,)))
    ready = FeedName(kind="stream", name=STREAM)
    until(lambda: service.control.feed(ready).status == "ready", STARTS_S, every_s=0.5, trouble=UNHEARD)
    assert all(service.streams_on(node) for node in service.workers), "a consumer on each"


def _stream(brokers: str) -> StreamSpec:
    return StreamSpec(
        model=MODEL,
        brokers=brokers,
        input=StreamInput(topic="in", format=Format.RAW),
        output=StreamOutput(topic="out", format=Format.RAW),
        dead_letters=Topic(topic="dead", partitions=1),
        max_batch_rows=20,
        session_timeout_s=6,
        transaction_timeout_s=10,
        resources={"cpus": STREAM_CPUS},  # type: ignore[arg-type]  # as a document would say it
        scaling=ConsumerScaling(min=2, max=2),
    )


def _record(number: int) -> bytes:
    row = rows(1)[0]
    row[0] = number % 7 / 7
    return bytes(row.astype("<f4").tobytes())


def write_batch(folder: Path, model: str, source: Path, output: Path) -> Path:
    """The project file of a batch over `source` by version 1 of that model; its units take some tenths of a second each."""
    document = {
        "kind": "Batch",
        "name": "bulk",
        "model": model,
        "version": 1,
        "input": {"path": str(source), "passthrough": ["id"]},
        "output": {"path": str(output), "columns": {"digit": "argmax(probabilities)"}},
        "units": {"max_rows": 100},
        "rows_per_call": 5,
        "workers": {"min": 4, "max": 4, "resources": {"cpus": 0.1}},
    }
    path = folder / "bulk.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")  # YAML holds JSON
    return path
