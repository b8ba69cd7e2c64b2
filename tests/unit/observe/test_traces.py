"""Which requests and records are traced, and what a receiver of OTLP gets of them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from cluster.errors import BadInput
from cluster.watch.catalogue import MALFORMED_TRACEPARENTS, SPANS
from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.callers import Callers
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer
from deployments.observe.meters import Meters
from deployments.observe.traces import settings as trace_settings_module
from deployments.observe.traces.opening import open_tracer
from deployments.observe.traces.otlp import ANSWER_S
from deployments.observe.traces.settings import TraceSettings, check_can_trace, trace_settings
from deployments.observe.traces.span import Span, SpanKind, current_span, during
from deployments.observe.traces.traceparent import TraceContext, parsed, written
from deployments.observe.traces.tracer import DRAWN_A_S_MOST, Tracer
from headrace.local.home import read_settings
from headrace.local.options import UpOptions
from headrace.local.run_state import load_run
from headrace.local.up import bring_up
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, table
from tests.support.listening import slot_in
from tests.support.trace_receiver import TraceReceiver, receiving
from tests.unit.gateway.test_infer_server import answer, request

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class MemorySpans:
    """Implements SpanSink."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def offer(self, spans: Sequence[Span]) -> None:
        self.spans += spans

    def close(self) -> None:
        """Nothing waits."""


def counted(meters: Meters) -> dict[tuple[str, ...], float]:
    report = meters.next_report()
    assert report is not None
    return {(series.metric, *series.labels): count for series, count in report.counters.items()}


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (SAMPLED, True),
        (NOT_SAMPLED, False),
        (f"00-{TRACE}-{SPAN}-03", True),  # the other bits are none of ours
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (SAMPLED.upper(), None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"{SAMPLED}\n", None),
        ("", None),
        ("x" * 10_000, None),
    ],
)
def test_a_traceparent_is_read_by_the_standard_s_rules(value: str, sampled: bool | None) -> None:
    want = None if sampled is None else TraceContext(int(TRACE, 16), int(SPAN, 16), sampled)
    assert parsed(value.encode()) == want


def test_one_that_is_written_is_read_again() -> None:
    assert parsed(written(1, 2)) == TraceContext(1, 2, sampled=True)


def test_the_caller_s_flag_decides_and_else_our_ratio() -> None:
    sink, meters = MemorySpans(), Meters()
    never, always = Tracer(sink, 0.0, meters), Tracer(sink, 1.0, meters)
    traced = never.begin(SAMPLED.encode(), "it", {})
    assert traced is not None
    assert (f"{traced.trace_id:032x}", f"{traced.parent_id:016x}") == (TRACE, SPAN)
    assert always.begin(NOT_SAMPLED.encode(), "it", {}) is None
    assert never.begin(b"", "it", {}) is None
    ours = always.begin(b"not-one", "it", {})
    assert ours is not None
    assert ours.trace_id != traced.trace_id
    assert ours.parent_id == 0
    assert counted(meters) == {(MALFORMED_TRACEPARENTS.name,): 1}


def test_records_are_sampled_by_their_own_contexts_and_the_others_by_place_and_offset() -> None:
    meters, now = Meters(), iter(range(1, 10))
    tracer, offsets = Tracer(MemorySpans(), 0.01, meters, clock=lambda: next(now)), range(1000, 3_000)
    drawn = tracer.sampled("in/0", offsets, {})
    assert 10 < len(drawn) < DRAWN_A_S_MOST
    assert tracer.sampled("in/0", offsets, {}).keys() == drawn.keys()
    contexts = dict.fromkeys(range(len(offsets)), NOT_SAMPLED.encode())
    bare = min(drawn)
    first = next(row for row in range(len(offsets)) if row not in drawn)
    contexts |= {first: SAMPLED.encode(), first + 1: b"not-one"}
    del contexts[bare]
    found = tracer.sampled("in/0", offsets, contexts)
    assert found.keys() - {first + 1} == {first, bare}
    assert found[first] == (int(TRACE, 16), int(SPAN, 16))
    assert counted(meters) == {(MALFORMED_TRACEPARENTS.name,): 1}


def test_our_ratio_draws_a_bounded_number_a_second_whatever_the_traffic() -> None:
    now_s = 0.0
    tracer, offsets = Tracer(MemorySpans(), 0.01, Meters(), clock=lambda: now_s), range(2000)
    first = [tracer.sampled("in/0", range(2000 * batch, 2000 * (batch + 1)), {}) for batch in range(100)]
    assert sum(map(len, first)) == DRAWN_A_S_MOST  # of some 2,000
    assert tracer.begin(b"", "it", {}) is None
    contexts = dict.fromkeys(range(len(offsets)), SAMPLED.encode())
    assert len(tracer.sampled("in/0", offsets, contexts)) == len(offsets)  # what callers want traced is
    now_s = 0.5
    assert (
        sum(len(tracer.sampled("in/1", range(2000 * batch, 2000 * (batch + 1)), {})) for batch in range(100))
        == DRAWN_A_S_MOST // 2
    )


def test_who_works_for_a_span_finds_it_until_its_trace_is_sent() -> None:
    sink = MemorySpans()
    tracer = Tracer(sink, 1.0, Meters())
    root = tracer.begin(b"", "root", {})
    assert root is not None
    with root:
        with pytest.raises(ValueError, match="no"), root.child("child") as child:  # noqa: PT012
            assert current_span() is child
            raise ValueError("no")
        assert current_span() is root
    with during(root):
        assert current_span() is root
        late = root.child("late")
        tracer.finish(root)
        assert current_span() is None  # a shadow that goes on adds nothing to what was sent
    assert [(span.name, span.error) for span in sink.spans] == [("root", ""), ("child", "ValueError"), ("late", "")]
    assert late.ended_ns >= late.began_ns
    assert {span.parent_id for span in sink.spans[1:]} == {root.span_id}


def test_settings_come_from_the_environment_and_are_checked() -> None:
    assert trace_settings({}) is None
    told = TraceSettings("https://traces.example.com:4318/", 0.25)
    assert trace_settings(told.variables) == told
    assert told.endpoint == "https://traces.example.com:4318/v1/traces"
    assert TraceSettings("http://x/otlp").endpoint == "http://x/otlp"
    for wrong in ({"HEADRACE_TRACE_RATIO": "often"}, {"HEADRACE_TRACE_RATIO": "2"}, {"HEADRACE_TRACES": "localhost:4318"}):
        with pytest.raises(BadInput):
            trace_settings({**told.variables, **wrong})
    with pytest.raises(BadInput, match="password") as refused:
        TraceSettings("http://me:secret@x")
    assert "secret" not in str(refused.value)


def test_where_opentelemetry_is_missing_the_command_that_brings_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_can_trace()
    monkeypatch.setattr(trace_settings_module, "_NEEDED", ("opentelemetry.exporter.otlp.none_such.http",))
    with pytest.raises(BadInput, match=r"pip install 'headrace\[traces\]'"):
        check_can_trace()
    settings = read_settings({"HEADRACE_HOME": str(tmp_path / "home")})
    with pytest.raises(BadInput, match=r"pip install 'headrace\[traces\]'"):
        bring_up(UpOptions(traces="http://127.0.0.1:4318"), settings, lambda *_: None)
    assert load_run(settings.home) is None  # nothing was started
    assert open_tracer(TraceSettings("http://127.0.0.1:1"), Meters(), "it") is None  # and a process scores all the same


def test_a_receiver_gets_spans_as_they_were() -> None:
    meters = Meters()
    with receiving() as receiver:
        tracer = open_tracer(TraceSettings(receiver.url, 1.0), meters, "headrace-test")
        assert tracer is not None
        root = tracer.begin(SAMPLED.encode(), "POST it", {"headrace.rows": 3}, began_ns=1_000)
        other = tracer.begin(b"", "other", {}, kind=SpanKind.CONSUMER)
        assert root is not None
        assert other is not None
        root.child("within", began_ns=1_500, ended_ns=1_800)
        other.links.append(root)
        other.error = "EngineFailure"
        tracer.finish(root, other)
        root.attributes["later"] = True  # by a call that goes on after its caller has left
        tracer.close()
        got, within = receiver.trace(TRACE, least=2)
        (linked,) = receiver.trace(f"{other.trace_id:032x}")
    assert (got.name, got.kind, got.parent, got.attributes, got.began_ns) == ("POST it", 2, SPAN, {"headrace.rows": 3}, 1_000)
    assert (within.parent, within.began_ns, within.ended_ns, within.kind) == (got.span, 1_500, 1_800, 1)
    assert (linked.links, linked.parent, linked.kind, linked.failed) == ((got.span,), "", 5, True)
    assert {span.service for span in (got, within, linked)} == {"headrace-test"}
    assert linked.attributes == {"error.type": "EngineFailure"}
    assert counted(meters) == {(SPANS.name, "exported"): 3}


def test_a_receiver_that_hangs_holds_nobody_and_what_is_dropped_is_counted() -> None:
    meters = Meters()
    with receiving() as receiver:
        receiver.answering.clear()
        tracer = open_tracer(TraceSettings(receiver.url, 1.0), meters, "headrace-test")
        assert tracer is not None
        slowest_s = 0.0
        for _ in range(3000):
            root = tracer.begin(SAMPLED.encode(), "it", {})
            assert root is not None
            begin_s = time.monotonic()
            tracer.finish(root)
            slowest_s = max(slowest_s, time.monotonic() - begin_s)
        assert slowest_s < ANSWER_S  # as long as a call that waits for the receiver would take
        assert counted(meters) == {(SPANS.name, "dropped"): 3000 - 2048}
        begin_s = time.monotonic()
        tracer.close()
        assert time.monotonic() - begin_s < 10.0


def test_requests_that_share_a_call_are_whole_traces_and_an_unsampled_one_is_none() -> None:
    """Two sampled requests and one that is not, in one call: its span is within the first, and the second links to it."""
    second = TRACE[::-1]

    async def scene(receiver: TraceReceiver) -> None:
        scorer, meters = FakeScorer(table()), Meters()
        tracer = open_tracer(TraceSettings(receiver.url, 0.0), meters, "headrace-gateway")
        assert tracer is not None
        control, plane = FakeControl(scorer.table), DataPlane(scorer, replace(PATIENT, gather_s=3600.0), tracer=tracer)
        guard = Guard(scorer, visitors=True)
        server = GatewayServer(plane, Repository(scorer, control), control, guard, "0", Callers.to("gateway"))
        with tempfile.TemporaryDirectory() as folder:
            await server.start(slot_in(Path(folder)))
            scorer.gate.clear()
            waiting = [await ask(folder, "traceparent: nonsense")]  # its call is under way
            while not scorer.calls:
                await asyncio.sleep(0)
            for context in (SAMPLED, f"00-{second}-{SPAN}-01", NOT_SAMPLED):
                came_us = time.time_ns() // 1000
                waiting.append(await ask(folder, f"traceparent: {context}", "tracestate: a=1", f"x-headrace-came: {came_us}"))
            while server.requests_under_way < len(waiting):
                await asyncio.sleep(0.001)
            scorer.gate.set()
            for reader, writer in waiting:
                assert (await answer(reader)).startswith(b"HTTP/1.1 200")
                writer.close()
            assert scorer.calls == [1, 3]
            hits = server._infer.known_head.cache_info()
            assert (hits.misses, hits.hits) == (1, 3)  # a trace makes no other head
            await server.stop(0)
        await asyncio.to_thread(tracer.close)
        assert counted(meters)[(MALFORMED_TRACEPARENTS.name,)] == 1

    async def ask(folder: str, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(f"{folder}/infer")
        writer.write(request(headers=headers))
        return reader, writer

    with receiving() as receiver:
        uvloop.run(scene(receiver))
        first, linked = receiver.trace(TRACE, least=4), receiver.trace(second, least=3)
        assert len(receiver.spans) == len(first) + len(linked)
    root, door, queue, call = first
    assert [span.name for span in first] == ["POST /v2/models/{model}/infer", "door", "queue", "call"]
    assert root.began_ns == door.began_ns < door.ended_ns <= queue.began_ns
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "headrace.model": "pair",
        "headrace.version": "3",
        "headrace.rows": 1,
        "headrace.request_id": "",
    }
    assert {door.parent, queue.parent, call.parent} == {root.span}
    assert call.attributes == {"headrace.requests": 3, "headrace.rows": 3}
    assert [span.links for span in linked] == [(call.span,), (), ()]
