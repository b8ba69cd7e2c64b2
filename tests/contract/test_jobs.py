"""What jobs promise, on the fake and on real Ray Jobs."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from cluster.errors import Unreachable
from cluster.ports import Jobs
from cluster.schedule.jobs import JobSeen, JobState, RunCommand, SubmitJob
from consumers.batch.schedule.fake_jobs import FakeJobs
from tests.conftest import RayCluster

WAIT_S = 120.0  # of a machine that is busy with other things


class FinishedByThemselves(FakeJobs):
    """As the program of the real ones does: ends at once, well or badly, or waits to be stopped."""

    def submit(self, wanted: SubmitJob | RunCommand) -> None:
        known = len(self.submitted)
        super().submit(wanted)
        if len(self.submitted) == known:
            return
        if isinstance(wanted, RunCommand):
            self.end(wanted.job, JobState.SUCCEEDED)
        elif wanted.batch == "fails":
            self.end(wanted.job, JobState.FAILED, "the last words")
        elif wanted.batch == "lacks":
            self.end(wanted.job, JobState.FAILED, "what it lacks", transient=True)
        elif wanted.batch == "ends":
            self.end(wanted.job, JobState.SUCCEEDED)


@pytest.fixture(params=["fake", "ray"])
def jobs(request: pytest.FixtureRequest) -> Iterator[Jobs]:
    if request.param == "fake":
        yield FinishedByThemselves()
        return
    request.getfixturevalue("ray_cluster")
    from consumers.batch.schedule.jobs import RayJobs

    yield RayJobs(program="tests.support.job_program")


def wanted(batch: str) -> SubmitJob:
    fire = f"sched-{batch}-{uuid.uuid4().hex[:8]}"
    return SubmitJob(fire, batch, fire, "2026-11-23")


def submit(jobs: Jobs, one: SubmitJob | RunCommand) -> None:
    """As the controller does: again at every tick, for as long as the cluster is too busy to answer."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            jobs.submit(one)
        except Unreachable:
            if time.monotonic() > deadline:
                raise
        else:
            return


def until(jobs: Jobs, job: str, told: Callable[[JobSeen], bool]) -> JobSeen:
    deadline = time.monotonic() + WAIT_S
    while not told(seen := jobs.state([job])[job]):
        assert time.monotonic() < deadline, f"did not come true in time: {seen}"
        time.sleep(0.1)
    return seen


def test_a_command_runs_once_by_its_words_alone_and_knows_whose_alarm_it_is(jobs: Jobs) -> None:
    word = '$HOME; exit 3 "'
    told = f"sys.argv[1] == {word!r} and os.environ['HEADRACE_DRIFT_MODEL'] == 'Digits.v2'"
    program = f"import os, sys; sys.exit(0 if {told} and os.environ['HEADRACE_DRIFT_VERSION'] == '7' else 1)"
    one = RunCommand(f"drift-{uuid.uuid4().hex[:8]}", "Digits.v2", 7, (sys.executable, "-c", program, word))
    submit(jobs, one)
    submit(jobs, one)
    assert until(jobs, one.job, lambda seen: seen.state is not JobState.RUNNING) == JobSeen(JobState.SUCCEEDED)


def test_jobs_are_submitted_once_followed_and_stopped(jobs: Jobs) -> None:
    ends, fails, lacks, waits = wanted("ends"), wanted("fails"), wanted("lacks"), wanted("waits")
    for one in (waits, ends, fails, lacks, waits):
        submit(jobs, one)
    assert until(jobs, ends.job, lambda seen: seen.state is not JobState.RUNNING) == JobSeen(JobState.SUCCEEDED)
    failed = until(jobs, fails.job, lambda seen: seen.state is not JobState.RUNNING)
    assert failed == JobSeen(JobState.FAILED, "the last words")
    lacked = until(jobs, lacks.job, lambda seen: seen.state is not JobState.RUNNING)
    assert lacked == JobSeen(JobState.FAILED, "what it lacks", transient=True)
    assert jobs.state([ends.job, "never-was"]) == {ends.job: JobSeen(JobState.SUCCEEDED)}
    jobs.submit(ends)  # over is over
    assert jobs.state([ends.job])[ends.job].state is JobState.SUCCEEDED
    assert until(jobs, waits.job, lambda seen: seen.state is JobState.RUNNING).message == ""
    jobs.stop(waits.job)
    jobs.stop(waits.job)
    assert until(jobs, waits.job, lambda seen: seen.state is not JobState.RUNNING).state is JobState.FAILED
    jobs.stop(ends.job)
    jobs.stop("never-was")


def test_a_job_is_told_which_ray_is_its_own(ray_cluster: RayCluster) -> None:
    from consumers.batch.schedule.jobs import RayJobs

    jobs, one = RayJobs(program="tests.support.job_program"), wanted("says-its-ray")
    submit(jobs, one)
    assert until(jobs, one.job, lambda seen: seen.state is JobState.FAILED).message == ray_cluster.address


def test_without_a_dashboard_they_are_unreachable(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(jobs, FakeJobs):
        jobs.away = True
    else:
        from consumers.batch.schedule import jobs as real

        monkeypatch.setattr(real, "OwnJobClient", lambda _address: real.JobSubmissionClient("http://127.0.0.1:9"))
    with pytest.raises(Unreachable):
        jobs.submit(wanted("ends"))
    with pytest.raises(Unreachable):
        jobs.state(["a"])
    with pytest.raises(Unreachable):
        jobs.stop("a")
