"""A stream whose scorer and engine are real, fed records of which some are sampled, and what a receiver gets of them."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.routing.routes import Target
from cluster.watch.catalogue import ScoringWay
from consumers.stream.log.port import Header, Log
from consumers.stream.loop import Loop
from consumers.stream.spec import StreamSpec
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters
from deployments.observe.traces.opening import open_tracer
from deployments.observe.traces.settings import TraceSettings
from deployments.scoring.rows import Answer
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.transport.transports import EmbeddedTransport
from tests.support.models import mlp_artifact
from tests.support.routing import TableControl, route, target
from tests.support.trace_receiver import TraceReceiver

ABOVE = "00f067aa0ba902b7"
ROOT = [*("batch", "decode", "encode", "engine", "score"), "ask digits--v1"]


class LoadedTransport(EmbeddedTransport):
    """Ready as soon as it is asked: waits for the load under way."""

    def ready(self, target: Target) -> bool:
        return True

    async def score(self, target: Target, tensors: dict[str, Array], timeout_s: float) -> Answer:  # type: ignore[override]
        await self.settled([target.app])
        return await super().score(target, tensors, timeout_s)


def sent_headers(count: int) -> tuple[list[tuple[Header, ...]], dict[int, str]]:
    """Of so many records: the second and the last are sampled, the third has a malformed context, the first none, and the rest
    unsampled ones. And the traces of the sampled ones."""
    traces = {number: f"{random.getrandbits(128):032x}" for number in (1, count - 1)}
    told: list[tuple[Header, ...]] = []
    for number in range(count):
        trace = traces.get(number, "4bf92f3577b34da6a3ce929d0e0e4736")
        flag = "01" if number in traces else "00"
        value = "nonsense" if number == 2 else f"00-{trace}-{ABOVE}-{flag}"
        told.append((("n", str(number).encode()), *([("traceparent", value.encode())] if number else [])))
    return told, traces


@contextmanager
def traced_loop(spec: StreamSpec, make_log: Callable[[], Log], receiver: TraceReceiver, folder: Path) -> Iterator[Meters]:
    """A worker of stream `s` over `digits`, version 1, on a thread; what it counts."""
    control, meters = TableControl(route(target(1, mlp_artifact(folder)))), Meters()
    tracer = open_tracer(TraceSettings(receiver.url, ratio=0.0), meters, "headrace-stream")
    assert tracer is not None
    with ScorerThread(lambda: RoutedScorer(control, embedded=LoadedTransport(), way=ScoringWay.STREAM)) as scoring:
        loop = Loop("s", spec, scoring, make_log, meters=meters, tracer=tracer)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            yield meters
        finally:
            loop.stop()
            thread.join(60)
            tracer.close()


def check_traces(
    receiver: TraceReceiver,
    traces: dict[int, str],
    sent: Sequence[tuple[Header, ...]],
    answered: dict[int, list[Header]],
    spec: StreamSpec,
) -> None:
    """Each sampled record is one trace from its producer to its answer, and of the others none is, nor is their context touched.
    All were of one micro-batch."""
    first, last = traces
    spans = receiver.trace(traces[first], least=len(ROOT) + 2)
    root = next(span for span in spans if span.parent == ABOVE)
    assert sorted(span.name for span in spans) == sorted([root.name, f"commit {spec.output.topic}", *ROOT])
    by_name = {span.name: span for span in spans}
    for above, below in itertools.pairwise([root.name, "batch", "score", "ask digits--v1", "engine"]):
        assert by_name[below].parent == by_name[above].span
        assert by_name[above].began_ns <= by_name[below].began_ns
    assert root.ended_ns >= by_name[f"commit {spec.output.topic}"].ended_ns >= by_name["encode"].ended_ns
    assert (root.name, root.kind, root.service) == (f"process {spec.input.topic}", 5, "headrace-stream")
    told = {name: root.attributes[name] for name in ("messaging.system", "messaging.destination.name", "headrace.version")}
    assert told == {"messaging.system": "kafka", "messaging.destination.name": spec.input.topic, "headrace.version": 1}
    linked = receiver.trace(traces[last], least=2)
    assert [span.links for span in linked] == [(by_name["batch"].span,), ()]
    assert {span.trace for span in receiver.spans} == set(traces.values())
    for number, headers in answered.items():
        mine = [value for name, value in headers if name == "traceparent"]
        if number in traces:
            above = next(span for span in receiver.trace(traces[number]) if span.parent == ABOVE)
            assert mine == [f"00-{traces[number]}-{above.span}-01".encode()]
        else:
            assert mine == [value for name, value in sent[number] if name == "traceparent"]
