"""What all feeds promise, on the fake and on real streams in Ray Serve."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator

import pytest

from cluster.ports import AppStatus, FeedKind, Feeds, FeedSpec, FeedState
from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.kafka.offsets import offset_ranges, set_group
from consumers.stream.serving.fake_feeds import FakeFeeds
from consumers.stream.serving.feed import ServeStreams
from consumers.stream.spec import StreamInput, StreamOutput, StreamSpec, Topic
from tests.support.waiting import until

WAIT_S = 90.0


NAME = f"s{uuid.uuid4().hex[:6]}"


@pytest.fixture(params=["fake", "serve"])
def feeds(request: pytest.FixtureRequest) -> Iterator[Feeds]:
    """On Serve the stream has run before: there is no controller here to remember that it never did."""
    if request.param == "fake":
        yield FakeFeeds()
        return
    request.getfixturevalue("ray_cluster")
    broker, spec = request.getfixturevalue("broker"), stream_spec(NAME)
    ensure_topics(spec, broker)
    set_group(spec.group_of(NAME), offset_ranges(spec, broker).starts, broker, spec.security)
    made = ServeStreams(broker)
    yield made
    for name in made.state():
        made.stop(name)
    until(lambda: not made.state(), WAIT_S)


def stream_spec(name: str, *, linger_ms: float = 5) -> StreamSpec:
    return StreamSpec(
        model="nobody",
        input=StreamInput(topic=f"{name}-in"),
        output=StreamOutput(topic=f"{name}-out"),
        dead_letters=Topic(topic=f"{name}-dead"),
        linger_ms=linger_ms,
    )


def feed_spec(name: str, *, linger_ms: float = 5) -> FeedSpec:
    spec = stream_spec(name, linger_ms=linger_ms)
    document = spec.model_dump_json()
    return FeedSpec(FeedKind.STREAM, name, "nobody", document, hashlib.sha256(document.encode()).hexdigest())


def ready(feeds: Feeds, spec: FeedSpec) -> Callable[[], bool]:
    def look() -> bool:
        feeds.start(spec)  # as the controller does at every tick
        seen: FeedState | None = feeds.state().get(spec.name)
        return seen is not None and seen.digest == spec.digest and seen.app.status is AppStatus.READY

    return look


def test_a_stream_starts_moves_to_another_document_and_stops(feeds: Feeds) -> None:
    first = feed_spec(NAME)
    until(ready(feeds, first), WAIT_S)
    state = feeds.state()[first.name]
    assert (state.name, state.app.name, state.app.replicas) == (first.name, first.app, 1)

    second = feed_spec(first.name, linger_ms=7)
    assert second.digest != first.digest
    until(ready(feeds, second), WAIT_S)

    feeds.stop(first.name)
    feeds.stop(first.name)
    until(lambda: first.name not in feeds.state(), WAIT_S)
    feeds.stop("never-was")
