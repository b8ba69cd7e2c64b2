"""Jobs in memory, for tests of what decides over them. They pass the contract suite of the real ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cluster.errors import Unreachable
from cluster.schedule.jobs import JobSeen, JobState, RunCommand, SubmitJob, SubmitPreflight


class FakeJobs:
    """Implements `Jobs`. A job runs until `end` is called. `away` makes every call raise Unreachable.

    `submitted` lists what was really started, in order, and `asked` how often the state was asked for.
    """

    def __init__(self) -> None:
        self.submitted: list[SubmitJob | SubmitPreflight | RunCommand] = []
        self.asked = 0
        self.away = False
        self._jobs: dict[str, JobSeen] = {}

    def submit(self, wanted: SubmitJob | SubmitPreflight | RunCommand) -> None:
        """See `Jobs.submit`."""
        self._reach()
        if wanted.job not in self._jobs:
            self.submitted.append(wanted)
            self._jobs[wanted.job] = JobSeen(JobState.RUNNING)

    def state(self, jobs: Collection[str]) -> Mapping[str, JobSeen]:
        """See `Jobs.state`."""
        self._reach()
        self.asked += 1
        return {job: self._jobs[job] for job in jobs if job in self._jobs}

    def stop(self, job: str) -> None:
        """See `Jobs.stop`."""
        self._reach()
        if job in self._jobs and self._jobs[job].state is JobState.RUNNING:
            self._jobs[job] = JobSeen(JobState.FAILED, "stopped")

    def end(self, job: str, state: JobState, message: str = "", *, transient: bool = False) -> None:
        """The job ends by itself."""
        self._jobs[job] = JobSeen(state, message, transient)

    def forget(self) -> None:
        """The cluster loses its memory of jobs, as a new head node does."""
        self._jobs.clear()

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("the jobs are away", where="fake jobs", remedy="bring them back")
