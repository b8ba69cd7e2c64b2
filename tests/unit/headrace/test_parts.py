"""What is brought back, when, and how often it is tried: pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as s

from cluster.errors import BadInput
from deployments.gateway.door.settings import ClientCertificates, DoorTls
from headrace.local.options import UpOptions, not_taken_up
from headrace.local.repairs.parts import COMES_BACK_WITHIN_S, HELPERS, Absences, Away, Backoff, RunPart, plan

SOME = s.lists(s.sampled_from(RunPart), unique=True)


def away(*parts: RunPart) -> tuple[Away, ...]:
    return tuple(Away(part, "it has ended") for part in parts)


def test_nothing_is_done_where_nothing_is_away() -> None:
    assert plan(()) == ()


@pytest.mark.parametrize("part", [RunPart.BROKER, *HELPERS, RunPart.CONTROLLER])
def test_a_part_is_brought_back_alone(part: RunPart) -> None:
    assert plan(away(part)) == (part,)


def test_a_gateway_needs_a_controller_that_nobody_could_ask() -> None:
    assert plan(away(RunPart.GATEWAY)) == (RunPart.CONTROLLER, RunPart.GATEWAY)


def test_a_dead_ray_stands_for_all_that_ran_in_it() -> None:
    assert plan(away(RunPart.GATEWAY, RunPart.RAY, RunPart.DASHBOARD)) == (RunPart.RAY,)


@given(SOME)
def test_ray_is_ended_only_where_ray_is_dead(parts: list[RunPart]) -> None:
    wanted = plan(away(*parts))
    assert (RunPart.RAY in wanted) == (RunPart.RAY in parts)
    if RunPart.RAY not in parts:
        assert set(parts) <= set(wanted) <= {*parts, RunPart.CONTROLLER}
        assert list(wanted) == sorted(wanted, key=list(RunPart).index)


@pytest.mark.parametrize("part", list(RunPart))
def test_what_comes_back_by_itself_is_given_the_time(part: RunPart) -> None:
    patience_s = COMES_BACK_WITHIN_S.get(part, 0.0)
    absences = Absences({}).seen(away(part), 100.0).seen(away(part), 100.0 + patience_s / 2)
    assert (part in absences.overdue(100.0 + patience_s / 2)) == (patience_s == 0)
    assert absences.overdue(100.0 + patience_s) == (part,)


def test_an_absence_that_ended_is_forgotten() -> None:
    absences = Absences({}).seen(away(RunPart.GATEWAY), 0.0).seen((), 1.0).seen(away(RunPart.GATEWAY), 30.0)
    assert absences.since_s == {RunPart.GATEWAY: 30.0}
    assert absences.overdue(31.0) == ()


def test_attempts_wait_twice_as_long_each_time_up_to_a_minute() -> None:
    backoff, now_s, waits = Backoff(), 0.0, []
    for _ in range(9):
        backoff = backoff.tried(now_s)
        waits.append(backoff.next_s - now_s)
        now_s = backoff.next_s
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_lasts_begins_anew_and_what_ends_at_once_does_not() -> None:
    backoff = Backoff().tried(0.0).tried(1.0)
    assert backoff.well(backoff.next_s + 59) == backoff
    assert backoff.well(backoff.next_s + 60) == Backoff()


def test_what_runs_keeps_its_options_and_says_which_it_has_not_taken_up() -> None:
    runs = UpOptions(http_port=8001, broker=True)
    assert not_taken_up(UpOptions(), runs) == ()  # nothing was asked
    assert not_taken_up(runs, runs) == ()
    wanted = UpOptions(http_port=8001, gateways=2, most_gateways=4, hosts=("a",), num_cpus=3)
    assert not_taken_up(wanted, runs) == ("--allow-host", "--gateways", "--num-cpus")
    assert not_taken_up(wanted, None) == ()
    secured = UpOptions(tls_cert="/door.pem", tls_key="/door.key", client_ca="/ca.pem")
    assert not_taken_up(secured, runs) == ("--tls-cert", "--tls-key", "--client-ca")
    assert not_taken_up(UpOptions(), secured) == ()


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"tls_key": "k"}, "give --tls-cert too"),
        ({"tls_cert": "c"}, "give --tls-key too"),
        ({"client_ca": "a"}, "give --tls-cert and --tls-key too"),
        ({"client_certs": ClientCertificates.OPTIONAL}, "give --tls-cert and --tls-key too"),
        ({"tls_cert": "c", "tls_key": "k", "client_certs": ClientCertificates.OPTIONAL}, "give --client-ca too"),
    ],
)
def test_an_option_of_tls_that_lacks_another_is_refused(options: dict[str, Any], lacking: str) -> None:
    with pytest.raises(BadInput) as refused:
        UpOptions(**options)
    assert refused.value.remedy == lacking


def test_callers_certificates_are_optional_unless_told_otherwise() -> None:
    pair = {"tls_cert": "c", "tls_key": "k"}
    assert UpOptions().tls is None
    assert UpOptions(**pair).tls == DoorTls("c", "k")
    assert UpOptions(**pair, client_ca="a").tls == DoorTls("c", "k", "a", ClientCertificates.OPTIONAL)
    wanted = UpOptions(**pair, client_ca="a", client_certs=ClientCertificates.REQUIRED)
    assert wanted.tls == DoorTls("c", "k", "a", ClientCertificates.REQUIRED)
