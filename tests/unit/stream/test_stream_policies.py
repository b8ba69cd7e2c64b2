"""The stream's pure rules: scaling on lag, back-off, the breaker, the document, Serve's options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.errors import BadInput
from consumers.stream.breaker import Breaker, backoff_s
from consumers.stream.log.port import Origins, Partition
from consumers.stream.outgoing.answers import OwnHeaders, headers_bytes
from consumers.stream.security import Protocol, Security
from consumers.stream.serving.autoscale import Bounds, replicas_for
from consumers.stream.serving.feed import deployment_options
from consumers.stream.spec import StreamSpec
from deployments.serving.scaling import settled

DOCUMENT = {
    "model": "digits",
    "input": {"topic": "in", "partitions": 3},
    "output": {"topic": "out"},
    "dead_letters": {"topic": "dead"},
}


@pytest.mark.parametrize(("lag", "replicas"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3), (1e9, 3)])
def test_one_consumer_for_so_many_records_never_above_the_bound(lag: float, replicas: int) -> None:
    assert replicas_for(lag, Bounds(least=1, most=3, lag_per_replica=1000, calm_s=60)) == replicas


def test_up_at_once_and_down_only_after_a_calm() -> None:
    assert settled(3, 1, now_s=100, calm_since_s=None, calm_s=60) == (3, None)
    assert settled(1, 3, now_s=100, calm_since_s=None, calm_s=60) == (3, 100)
    assert settled(1, 3, now_s=159, calm_since_s=100, calm_s=60) == (3, 100)
    assert settled(1, 3, now_s=160, calm_since_s=100, calm_s=60) == (1, None)
    assert settled(3, 3, now_s=160, calm_since_s=100, calm_s=60) == (3, None)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=30))
def test_the_breaker_opens_on_an_unbroken_row_of_failures_alone(batches: list[tuple[int, int]]) -> None:
    breaker, unbroken = Breaker(limit_rows=40), 0
    for answered, failed in batches:
        breaker = breaker.after(answered_rows=answered, failed_rows=failed)
        unbroken = 0 if answered else unbroken + failed
        assert breaker.open == (unbroken >= 40)


def test_back_off_doubles_up_to_a_bound() -> None:
    waits = [backoff_s(attempt) for attempt in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[1] == 2 * waits[0]
    assert waits[-1] == backoff_s(1000) == 5.0


def test_more_consumers_than_partitions_are_never_asked_for() -> None:
    spec = StreamSpec.model_validate(DOCUMENT | {"scaling": {"min": 0, "max": 16, "lag_per_replica": 7}})
    options = deployment_options(spec, "d1")
    scaling = options["autoscaling_config"]
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    assert scaling.policy.policy_kwargs == {"least": 1, "most": 3, "lag_per_replica": 7, "calm_s": 60.0}
    assert options["user_config"] == {"digest": "d1"}


@pytest.mark.parametrize(
    "change",
    [
        {"output": {"topic": "in"}},
        {"input": {"topic": "no spaces"}},
        {"surprise": 1},
        {"scaling": {"min": 4, "max": 2}},
        {"guarantee": "mostly"},
        {"security": {"protocol": "SASL_SSL"}},
    ],
)
def test_a_wrong_document_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StreamSpec.model_validate(DOCUMENT | change)


def test_the_password_comes_from_the_environment_and_stays_out_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    security = Security(protocol=Protocol.SASL_SSL, mechanism="PLAIN", username="u", password_env="STREAM_SECRET")  # noqa: S106  # the name of a variable
    with pytest.raises(BadInput, match="STREAM_SECRET is not set"):
        security.password()
    monkeypatch.setenv("STREAM_SECRET", "hush")
    assert security.password() == "hush"
    assert "hush" not in security.model_dump_json()


def test_headers_made_late_are_the_same_as_a_whole_by_row_and_by_stretch() -> None:
    fixed, versions = [("headrace.model", b"m"), ("mark", b"1")], [1, 12, 1]
    headers = OwnHeaders(fixed, versions, Origins(Partition("in", 3), [7, 9, 10]))
    whole = [
        [*fixed, ("headrace.version", version), ("headrace.prediction_id", own)]
        for version, own in [(b"1", b"in/3/7"), (b"12", b"in/3/9"), (b"1", b"in/3/10")]
    ]
    assert list(headers) == list(headers) == whole
    assert [headers[row] for row in (0, 1, -1)] == whole
    assert list(headers[1:]) == whole[1:]
    assert list(headers[3:]) == []
    assert len(headers[1:]) == 2
    traced = OwnHeaders(fixed, versions, Origins(Partition("in", 3), [7, 9, 10]), {1: ("traceparent", b"00")})
    whole[1].append(("traceparent", b"00"))
    assert list(traced) == list(traced) == whole
    assert [traced[row] for row in (0, 1, -1)] == whole
    assert [list(traced[begin:end]) for begin, end in ((1, 3), (2, 3), (0, 2))] == [whole[1:], whole[2:], whole[:2]]
    assert (
        sum(map(headers_bytes, whole)) <= traced.most_bytes() <= sum(map(headers_bytes, whole)) + 3 * 10 + 1
    )  # the last id has a digit more
