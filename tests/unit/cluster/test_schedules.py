"""Cron lines across clock changes, missed fires, overlaps, retries; and exactly-once under random crashes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.schedule.cron import MOST_AT_ONCE, Schedule, fires_between, next_fires
from cluster.schedule.fires import Fire, FireState, job_id, jobs_of, look
from cluster.schedule.jobs import JobSeen, JobState, StopJob, SubmitJob

HOUR = 3600.0
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def times(schedule: Schedule, after: str, count: int) -> list[str]:
    return [datetime.fromtimestamp(at_s, UTC).strftime("%m-%d %H:%M") for at_s in next_fires(schedule, at(after), count)]


def hourly(**changes: object) -> Schedule:
    return Schedule.model_validate({"cron": "0 * * * *"} | changes)


def test_a_fixed_hour_keeps_local_time_through_both_changes() -> None:
    night = Schedule(cron="30 3 * * *", timezone="Europe/Berlin")
    assert times(night, "2026-03-28T00:00Z", 3) == ["03-28 02:30", "03-29 01:30", "03-30 01:30"]
    assert times(night, "2026-10-24T00:00Z", 3) == ["10-24 01:30", "10-25 02:30", "10-26 02:30"]


def test_a_fire_in_the_missing_hour_comes_right_after_it() -> None:
    missing = Schedule(cron="30 2 * * *", timezone="Europe/Berlin")
    assert times(missing, "2026-03-28T12:00Z", 2) == ["03-29 01:00", "03-30 00:30"]


def test_a_fire_in_the_doubled_hour_comes_once() -> None:
    doubled = Schedule(cron="30 2 * * *", timezone="Europe/Berlin")
    assert times(doubled, "2026-10-24T12:00Z", 2) == ["10-25 00:30", "10-26 01:30"]


def test_every_hour_means_every_hour_through_both_changes() -> None:
    for day in ("2026-03-28T20:00Z", "2026-10-24T20:00Z"):
        fires = next_fires(hourly(timezone="Europe/Berlin"), at(day), 24)
        assert {later - sooner for sooner, later in itertools.pairwise(fires)} == {HOUR}


def test_a_zone_that_changes_by_half_an_hour() -> None:
    island = Schedule(cron="15 2 * * *", timezone="Australia/Lord_Howe")
    assert len(times(island, "2026-10-02T00:00Z", 4)) == len(set(times(island, "2026-10-02T00:00Z", 4)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cron": "61 * * * *"}, "not a cron line"),
        ({"cron": "* * *"}, "not a cron line"),
        ({"cron": "@daily"}, r"write the five fields, '0 0 \* \* \*', and the zone as `timezone: Europe/Berlin`"),
        ({"cron": "@reboot"}, "write the five fields.*`timezone: "),
        ({"cron": "CRON_TZ=Asia/Tokyo 30 2 * * *"}, r"write `timezone: Asia/Tokyo`, and the five fields alone, '30 2 \* \* \*'"),
        ({"cron": "TZ=UTC 0 0 * * *"}, "write `timezone: UTC`"),
        ({"cron": "0 0 30 2 *"}, "Bad day-of-month"),
        ({"cron": "0 0 */31 * 0L"}, "never comes: no day is all that its fields ask for"),  # a first that is the last Sunday
        ({"cron": "0 0 * * *", "timezone": "Mars/Olympus"}, "not a time zone"),
        ({"cron": "0 0 * * *", "timezone": "../etc/passwd"}, "not a time zone"),
        ({"cron": "0 0 * * *", "timezone": "Europe"}, "not a time zone"),
        ({"cron": "0 0 * * *", "timezone": "x" * 300}, "not a time zone"),
    ],
)
def test_a_wrong_schedule_says_why(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Schedule.model_validate(fields)


@given(
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/Santiago"]), st.integers(0, 400 * 24)
)
def test_two_half_ranges_fire_as_the_whole(zone: str, hours: int) -> None:
    schedule = Schedule(cron="*/20 1-3 * * *", timezone=zone)
    start = at("2026-01-01T00:00Z") + hours * HOUR
    middle, end = start + 7 * HOUR + 61, start + 30 * HOUR
    assert fires_between(schedule, start, end) == fires_between(schedule, start, middle) + fires_between(schedule, middle, end)


def states(fires: tuple[Fire, ...]) -> list[FireState]:
    return [fire.state for fire in fires]


def test_a_fire_is_submitted_under_an_id_made_of_its_time() -> None:
    seen = look("digits", hourly(), (), {}, since_s=NOON - 60, now_s=NOON + 1)
    assert seen.actions == (SubmitJob("sched-digits-20261123T120000Z", "digits", "sched-digits-20261123T120000Z", "2026-11-23"),)
    assert states(seen.fires) == [FireState.SUBMITTED]


def test_a_lost_submission_is_repeated_and_a_seen_one_is_not() -> None:
    first = look("digits", hourly(), (), {}, since_s=NOON - 60, now_s=NOON + 1)
    again = look("digits", hourly(), first.fires, {}, since_s=NOON - 60, now_s=NOON + 2)
    assert again.actions == first.actions
    running = look(
        "digits", hourly(), first.fires, {job_id("digits", NOON): JobSeen(JobState.RUNNING)}, since_s=NOON - 60, now_s=NOON + 3
    )
    assert running.actions == ()
    assert states(running.fires) == [FireState.RUNNING]


def test_a_run_that_ray_has_forgotten_is_submitted_again_and_a_persons_has_failed() -> None:
    ran = Fire(NOON, FireState.RUNNING, submitted_s=NOON)
    again = look("digits", hourly(), (ran,), {}, since_s=NOON - 60, now_s=NOON + 10)
    assert [action.job for action in again.actions] == [job_id("digits", NOON)]
    assert [(fire.state, fire.submitted_s) for fire in again.fires] == [(FireState.SUBMITTED, NOON + 10)]
    away = look("digits", hourly(), (ran,), None, since_s=NOON - 60, now_s=NOON + 10)
    assert away.fires == (ran,)
    asked = look("digits", None, (replace(ran, by="ann"),), {}, since_s=NOON - 60, now_s=NOON + 10)
    assert ([(fire.state, fire.reason) for fire in asked.fires], asked.actions) == (
        [(FireState.FAILED, "its job is gone with the Ray that ran it")],
        (),
    )


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ("skip", [FireState.SKIPPED] * 3),
        ("run_latest", [FireState.SKIPPED, FireState.SKIPPED, FireState.SUBMITTED]),
        ("run_all", [FireState.SUBMITTED, FireState.WAITING, FireState.WAITING]),
    ],
)
def test_missed_fires(missed: str, expected: list[FireState]) -> None:
    seen = look("digits", hourly(missed=missed), (), {}, since_s=NOON - 60, now_s=NOON + 2.5 * HOUR)
    assert states(seen.fires) == expected


def test_a_fire_on_time_makes_up_for_the_missed_ones() -> None:
    seen = look("digits", hourly(), (), {}, since_s=NOON - 60, now_s=NOON + 2 * HOUR + 5)
    assert states(seen.fires) == [FireState.SKIPPED, FireState.SKIPPED, FireState.SUBMITTED]


def test_of_more_missed_fires_than_one_look_takes_the_latest_runs_alone() -> None:
    often, fires, latest_s = Schedule(cron="*/2 * * * *"), tuple[Fire, ...](), NOON + (MOST_AT_ONCE + 500) * 120
    for _ in range(3):
        fires = look("digits", often, fires, {}, since_s=NOON - 60, now_s=latest_s + 90).fires
    assert [(fire.at_s, fire.state) for fire in fires if fire.state is not FireState.SKIPPED] == [(latest_s, FireState.SUBMITTED)]
    whole = look("digits", often, (), {}, since_s=NOON - 60, now_s=NOON + (MOST_AT_ONCE - 1) * 120 + 90)
    assert states(whole.fires)[-1] is FireState.SUBMITTED  # and where a look takes exactly all


def test_nothing_fires_before_it_was_applied() -> None:
    assert look("digits", hourly(missed="run_all"), (), {}, since_s=NOON + 1, now_s=NOON + 30).fires == ()


@pytest.mark.parametrize(("overlap", "state"), [("skip", FireState.SKIPPED), ("queue", FireState.WAITING)])
def test_overlap(overlap: str, state: FireState) -> None:
    schedule = hourly(overlap=overlap)
    first = look("digits", schedule, (), {}, since_s=NOON - 60, now_s=NOON + 1)
    jobs = {job_id("digits", NOON): JobSeen(JobState.RUNNING)}
    second = look("digits", schedule, first.fires, jobs, since_s=NOON - 60, now_s=NOON + HOUR + 1)
    assert states(second.fires) == [FireState.RUNNING, state]
    jobs = {job_id("digits", NOON): JobSeen(JobState.SUCCEEDED)}
    third = look("digits", schedule, second.fires, jobs, since_s=NOON - 60, now_s=NOON + HOUR + 60)
    assert states(third.fires) == [FireState.SUCCEEDED, FireState.SUBMITTED if overlap == "queue" else FireState.SKIPPED]


def test_a_failed_run_is_retried_with_growing_pauses_and_then_given_up() -> None:
    schedule = hourly(retries=2, backoff_s=10)
    jobs: dict[str, JobSeen] = {}
    now_s, fires, pauses = NOON + 1, (), []
    submitted_at: list[float] = []
    while now_s < NOON + 120:
        seen = look("digits", schedule, fires, jobs, since_s=NOON - 60, now_s=now_s)
        fires = seen.fires
        for action in seen.actions:
            assert isinstance(action, SubmitJob)
            jobs[action.job] = JobSeen(JobState.FAILED, "no disk")
            submitted_at.append(now_s)
            assert action.fire == job_id("digits", NOON)
        now_s += 1
    pauses = [later - sooner for sooner, later in itertools.pairwise(submitted_at)]
    assert pauses == [11, 21]
    assert states(fires) == [FireState.FAILED]
    assert fires[0].reason == "no disk"
    assert sorted(jobs) == [f"sched-digits-20261123T120000Z{suffix}" for suffix in ("", "-r1", "-r2")]


def test_a_run_that_takes_too_long_is_stopped_and_retried() -> None:
    schedule = hourly(timeout_s=100, backoff_s=0, retries=1)
    first = look("digits", schedule, (), {}, since_s=NOON - 60, now_s=NOON)
    jobs = {job_id("digits", NOON): JobSeen(JobState.RUNNING)}
    late = look("digits", schedule, first.fires, jobs, since_s=NOON - 60, now_s=NOON + 101)
    assert late.actions == (StopJob(job_id("digits", NOON)),)
    assert "longer than 100 s" in late.fires[0].reason
    assert job_id("digits", NOON) in jobs_of("digits", late.fires, NOON + 102)
    lost = look("digits", schedule, late.fires, jobs, since_s=NOON - 60, now_s=NOON + 102)
    assert lost.actions == late.actions
    jobs = {job_id("digits", NOON): JobSeen(JobState.FAILED)}
    again = look("digits", schedule, lost.fires, jobs, since_s=NOON - 60, now_s=NOON + 103)
    assert [action.job for action in again.actions] == [job_id("digits", NOON, 1)]


def test_a_last_try_that_is_given_up_is_ended_until_it_is_over() -> None:
    schedule = hourly(timeout_s=100, retries=0)
    fires = (Fire(NOON, FireState.RUNNING, submitted_s=NOON),)
    jobs = {job_id("digits", NOON): JobSeen(JobState.RUNNING)}
    for at_s in (NOON + 101, NOON + 102):
        seen = look("digits", schedule, fires, jobs, since_s=NOON - 60, now_s=at_s)
        fires = seen.fires
        assert states(fires) == [FireState.FAILED]
        assert seen.actions == (StopJob(job_id("digits", NOON)),)
        assert jobs_of("digits", fires, at_s) == set(jobs)
    assert jobs_of("digits", fires, NOON + 3600) == set()


def test_while_the_cluster_cannot_be_asked_fires_are_noted_and_nothing_is_done() -> None:
    away = look("digits", hourly(), (), None, since_s=NOON - 60, now_s=NOON + 1)
    assert (states(away.fires), away.actions) == ([FireState.WAITING], ())
    back = look("digits", hourly(), away.fires, {}, since_s=NOON - 60, now_s=NOON + HOUR / 2)
    assert [action.job for action in back.actions] == [job_id("digits", NOON)]


def test_a_fire_whose_job_could_not_be_submitted_says_why_until_it_runs() -> None:
    first = look("digits", hourly(), (), {}, since_s=NOON - 60, now_s=NOON + 1)
    (action,) = first.actions
    assert isinstance(action, SubmitJob)
    refused = {action.job: "Ray's jobs can't be asked: proxy"}
    again = look("digits", hourly(), first.fires, {}, since_s=NOON - 60, now_s=NOON + 2, refused=refused)
    assert again.actions == (action,)
    assert [(fire.state, fire.reason) for fire in again.fires] == [
        (FireState.SUBMITTED, "not submitted yet, tried again: Ray's jobs can't be asked: proxy")
    ]
    away = look("digits", hourly(), first.fires, None, since_s=NOON - 60, now_s=NOON + 2, refused=refused)
    assert away.fires == again.fires
    lasting = look("digits", hourly(), again.fires, {}, since_s=NOON - 60, now_s=NOON + 3)
    assert lasting.fires == again.fires
    running = look("digits", hourly(), lasting.fires, {action.job: JobSeen(JobState.RUNNING)}, since_s=NOON - 60, now_s=NOON + 4)
    assert [(fire.state, fire.reason) for fire in running.fires] == [(FireState.RUNNING, "")]


def test_the_date_of_a_fire_is_that_of_its_zone() -> None:
    schedule = Schedule(cron="30 23 * * *", timezone="America/New_York")
    due = next_fires(schedule, NOON, 1)[0]
    (action,) = look("digits", schedule, (), {}, since_s=NOON, now_s=due).actions
    assert isinstance(action, SubmitJob)
    assert (action.as_of, action.job) == ("2026-11-23", "sched-digits-20261124T043000Z")


def test_the_history_keeps_the_newest_and_whatever_is_open() -> None:
    schedule = hourly(missed="run_all", keep=2)
    seen = look("digits", schedule, (), {}, since_s=NOON - 60, now_s=NOON + 5 * HOUR)
    assert len(seen.fires) == 6
    done = tuple(Fire(NOON + hour * HOUR, FireState.SUCCEEDED) for hour in range(6))
    assert len(look("digits", schedule, done, {}, since_s=NOON - 60, now_s=NOON + 5 * HOUR + 1).fires) == 2


@pytest.mark.thorough
@given(st.data())
def test_every_fire_runs_exactly_once_whatever_is_forgotten(data: st.DataObject) -> None:
    """Crashes lose actions (before or after they were done) but never what was saved; the cluster refuses ids it has seen."""
    schedule = hourly(missed="run_all", overlap="queue", backoff_s=0, retries=20)
    fires: tuple[Fire, ...] = ()
    jobs: dict[str, JobSeen] = {}
    succeeded: list[float] = []
    now_s = NOON - 60
    for _ in range(data.draw(st.integers(5, 40))):
        now_s += data.draw(st.sampled_from([1.0, 30.0, 600.0, 2 * HOUR]))
        seen = look("digits", schedule, fires, jobs, since_s=NOON - 60, now_s=now_s)
        if data.draw(st.booleans()):
            continue  # killed before it was saved
        fires = seen.fires
        if data.draw(st.booleans()):
            continue  # killed after it was saved, before it acted
        for action in seen.actions:
            assert isinstance(action, SubmitJob)
            if action.job in jobs:
                continue
            jobs[action.job] = JobSeen(data.draw(st.sampled_from(JobState)))
            if jobs[action.job].state is JobState.SUCCEEDED:
                succeeded.append(action.fire)
        for job, state in jobs.items():
            if state.state is JobState.RUNNING and data.draw(st.booleans()):
                jobs[job] = JobSeen(JobState.FAILED)
    assert len(succeeded) == len(set(succeeded))
    assert succeeded == sorted(succeeded)
    assert sum(fire.state in (FireState.SUBMITTED, FireState.RUNNING) for fire in fires) <= 1
    assert [fire.at_s for fire in fires] == fires_between(schedule, NOON - 60, fires[-1].at_s if fires else 0)[-len(fires) :]
