"""`python -m bench.scale [--quick] [--json] [--only WAY]`: all ways on 1, 2 and 4 nodes, with a model that sleeps.

The nodes are raylets of this machine, beside a head that scores nothing. There are as many replicas, stream's workers and batch's
workers as nodes, placed by the product, and a node scores one row at a time in 100 ms (`bench.sleeping`): one node takes a small
part of a core, and four are four times one unless something of ours is in the way. How busy the machine was is told beside each
figure. The reference is linear: the rate of one node, as many times as there are nodes.

Online: one gateway, with as many callers as keep the nodes busy. Stream: four partitions, exactly once, a worker a node; from
topic to topic, by the broker's clock. Batch: whole runs, as many units a node, from the first row to the published result.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console

from bench.batch import drive
from bench.batch_data import Case, spec_of, write_dataset, write_model
from bench.figures import Figure, show
from bench.http_load import measure, refuse_failed
from bench.service import Service, awaited, http_message, running
from bench.sleeping import ROW_S, TURNS_VARIABLE
from bench.stream import broker_in, fill, make_topics, output_rate, raw_value
from cluster.commands.documents import Apply, FeedDocument
from cluster.commands.feeds import FeedName

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODES = (1, 2, 4)
WAYS = ("online", "stream", "batch")
MODEL = "bench-scale"
CALLERS_A_NODE = 8
UNIT_ROWS, QUICK_UNITS_A_NODE, UNITS_A_NODE = 5, 16, 48  # 24 s: on one machine workers start beside each other for some seconds
# Room for one replica, and a stream's or a batch's worker beside it: Ray spreads replicas over nodes, but not always evenly.
NODE = {"num_cpus": 3, "object_store_memory": 100_000_000}
REPLICA_CPUS = 1.6
BUSY = 0.9  # above it the machine is in the way


@dataclass
class Nodes:
    """The cluster, and what it was measured to do: rates by way and by number of nodes."""

    screen: Console
    cluster: Cluster | None = None
    there: int = 0
    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    @contextmanager
    def started(self, folder: Path) -> Iterator[None]:
        """A head on which nothing scores, and one node."""
        turns = folder / "turns"
        turns.mkdir()
        os.environ[TURNS_VARIABLE] = str(turns)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 200_000_000}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            self.grow(1)
            ray.init(address=self.cluster.address, namespace="headrace", log_to_driver=False, logging_level="ERROR")
            yield
        finally:
            ray.shutdown()
            self.cluster.shutdown()

    def grow(self, nodes: int) -> None:
        """Until there are so many that score."""
        assert self.cluster is not None
        while self.there < nodes:
            self.cluster.add_node(**NODE)
            self.there += 1
        self.cluster.wait_for_nodes()

    def note(self, way: str, rate: float, busy: float) -> None:
        """A rate, and how busy the machine was meanwhile."""
        self.rates.setdefault((way, self.there), []).append(rate)
        why = ": the machine is in the way" if busy > BUSY else ""
        self.screen.print(f"{self.there} nodes, {way}: {rate:,.1f}/s, processors {busy:.0%} busy{why}")

    def figures(self) -> list[Figure]:
        """Medians, beside as many times the median of one node."""
        rates = {about: statistics.median(each) for about, each in self.rates.items()}
        words = "/s (the reference is linear)"
        return [
            Figure(f"scale.{way}.nodes_{nodes}", rate, nodes * rates[way, NODES[0]], f"{_UNITS[way]}{words}")
            for (way, nodes), rate in sorted(rates.items())
        ]


_UNITS = {"online": "requests", "stream": "events", "batch": "units"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of each, and shorter: about four minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--only", choices=WAYS, help="this way alone")
    options = parser.parse_args()
    rounds, seconds, units = (1, 8.0, QUICK_UNITS_A_NODE) if options.quick else (3, 12.0, UNITS_A_NODE)
    ways = (options.only,) if options.only else WAYS
    nodes = Nodes(Console(stderr=True))
    with ExitStack() as stack:
        service = stack.enter_context(running(nodes.started, fleet="bench.sleeping_fleet:SleepingFleet"))
        measures: dict[str, Callable[[], tuple[float, float]]] = {}
        if "batch" in ways:
            measures["batch"] = partial(batch, nodes, service.folder, units)
        if "online" in ways:
            measures["online"] = partial(online, nodes, service, seconds)
        if "stream" in ways:
            brokers = stack.enter_context(broker_in(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
            measures["stream"] = partial(stream, nodes, service, brokers, seconds)
        serve_model(service)
        for many in NODES:
            nodes.grow(many)
            place_replicas(service, many)
            for _ in range(rounds):
                for way in ways:
                    nodes.note(way, *measures[way]())
    show(nodes.figures(), as_json=options.json)


def serve_model(service: Service) -> None:
    """Scored by replicas, as many as a person says."""
    serving = {"resources": {"cpus": REPLICA_CPUS}, "scaling": {"mode": "manual", "replicas": 1}}
    service.apply(MODEL, serving, {})
    service.rollout_at(MODEL, service.register(MODEL, 128), "promoted")


def place_replicas(service: Service, many: int) -> None:
    """Returns once so many are ready."""
    service.control.scale(MODEL, many)
    awaited(lambda: any(app.replicas == app.target_replicas == many for app in service.control.model(MODEL).apps) or None)


def online(nodes: Nodes, service: Service, seconds: float) -> tuple[float, float]:
    """Requests a second, and how busy the machine was."""
    load = partial(measure, service.port, http_message(MODEL), connections=CALLERS_A_NODE * nodes.there)
    load(seconds=seconds / 4)
    with Busy() as busy:
        measured = load(seconds=seconds)
    refuse_failed([measured])
    return measured.requests_per_s, busy.share


def stream(nodes: Nodes, service: Service, brokers: str, seconds: float) -> tuple[float, float]:
    """Events a second, once every worker has its partitions; and how busy the machine was."""
    tag = uuid.uuid4().hex[:8]
    topics = {name: f"{name}-{tag}" for name in ("in", "out", "dead")}
    make_topics(brokers, *topics.values())
    spec = {
        "model": MODEL,
        "brokers": brokers,
        "input": {"topic": topics["in"], "format": "raw"},
        "output": {"topic": topics["out"]},
        "dead_letters": {"topic": topics["dead"]},
        "max_batch_rows": 2,
        "resources": {"cpus": 0.5},
        "scaling": {"min": nodes.there, "max": nodes.there},
    }
    name = FeedName(kind="stream", name=f"scale-{tag}")
    document = FeedDocument(kind="stream", name=name.name, model=MODEL, spec=spec)
    service.control.apply(Apply(feeds=(document,)))
    awaited(lambda: _dealt(service, name, nodes.there) or None)
    events = round(seconds * nodes.there / ROW_S)
    with Busy() as busy:
        fill(brokers, topics["in"], events, raw_value)
        rate = output_rate(brokers, topics["out"], events, [], 0.1)
    service.control.delete_feed(name)
    awaited(lambda: all(feed.name != name.name for feed in service.control.feeds()) or None)
    return rate, busy.share


def _dealt(service: Service, name: FeedName, workers: int) -> bool:
    """Whether so many workers share the partitions, each as many."""
    shares = [len(worker["partitions"]) for worker in service.control.feed(name).workers]
    return len(shares) == workers and sum(shares) == max(NODES) and max(shares) == min(shares)


def batch(nodes: Nodes, folder: Path, units_a_node: int) -> tuple[float, float]:
    """Units a second of a run, and how busy the machine was."""
    assert nodes.cluster is not None
    here, units = folder / f"batch-{uuid.uuid4().hex[:8]}", units_a_node * nodes.there
    case = Case("nodes", files=units, rows_a_file=UNIT_ROWS, width=64, layers=(8, 2))
    write_dataset(case, here / "in")
    pinned = write_model(case, here / "model")
    spec = spec_of(case, here / "in", here / "out", nodes.there, units={"max_rows": UNIT_ROWS})
    with Busy() as busy:
        run = drive(nodes.cluster.address, spec, pinned, str(ROW_S * UNIT_ROWS))
    return units / run["seconds"], busy.share


class Busy:
    """The share of the machine's processors that was used while it was entered, by anybody."""

    share = 0.0

    def __enter__(self) -> Busy:
        self._began_s, self._idle_s = time.monotonic(), _idle_s()
        return self

    def __exit__(self, *_: object) -> None:
        passed_s = (time.monotonic() - self._began_s) * (os.cpu_count() or 1)
        self.share = 1 - min((_idle_s() - self._idle_s) / passed_s, 1.0)


def _idle_s() -> float:
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0))


if __name__ == "__main__":
    main()
