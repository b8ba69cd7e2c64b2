"""Scheduled batches and preflights as Ray Jobs."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence

import ray
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.errors import Unreachable
from cluster.foreign import first_line
from cluster.schedule.jobs import TRY_AGAIN, JobSeen, JobState, RunCommand, SubmitJob, SubmitPreflight
from consumers.batch.ray_inside import OwnJobClient

_NO_SUCH_JOB = "Request failed with status code 404:"  # as its client says it; an id, or a page in between, may hold any number
# Of objects in memory, in what requests raises: the same trouble reads the same each time.
_ADDRESSES = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>:? ?")
PROGRAM = "consumers.batch.schedule.job"
PREFLIGHT_PROGRAM = "consumers.payload_replay.preflight"
_STATES = {
    JobStatus.PENDING: JobState.RUNNING,
    JobStatus.RUNNING: JobState.RUNNING,
    JobStatus.SUCCEEDED: JobState.SUCCEEDED,
    JobStatus.STOPPED: JobState.FAILED,
    JobStatus.FAILED: JobState.FAILED,
}


class RayJobs:
    """Implements `Jobs` over the dashboard of the Ray that this process belongs to. The submission id is the job's id.

    A job's driver runs on the head node with the Python of this process, and asks for no CPU: its workers do.
    """

    def __init__(self, program: str = PROGRAM, preflight_program: str = PREFLIGHT_PROGRAM) -> None:
        """The modules that a batch's job and a preflight's run."""
        self._program, self._preflight_program = program, preflight_program
        self._client: OwnJobClient | None = None

    def submit(self, wanted: SubmitJob | SubmitPreflight | RunCommand) -> None:
        """See `Jobs.submit`."""
        program, environment = self._program_of(wanted), {}
        if isinstance(wanted, RunCommand):
            environment = {"HEADRACE_DRIFT_MODEL": wanted.model, "HEADRACE_DRIFT_VERSION": str(wanted.version)}
        try:
            self._connected().submit_job(
                entrypoint=shlex.join(program),
                submission_id=wanted.job,
                entrypoint_num_cpus=0,
                runtime_env={"env_vars": environment} if environment else None,
            )
        except (OSError, RuntimeError) as error:
            if "already exists" not in str(error):
                raise self._away(error) from error

    def _program_of(self, wanted: SubmitJob | SubmitPreflight | RunCommand) -> Sequence[str]:
        match wanted:
            case RunCommand():
                return wanted.command
            case SubmitJob():
                module, which = self._program, [wanted.batch, "--fire", wanted.fire, "--as-of", wanted.as_of, *_asked(wanted)]
            case SubmitPreflight():
                which = [
                    wanted.model,
                    "--version",
                    str(wanted.version),
                    "--rollout",
                    str(wanted.rollout),
                    "--asked",
                    wanted.asked,
                ]
                module = self._preflight_program
        # Told, since Ray would have the job join whichever Ray of its machine it finds first.
        return [sys.executable, "-m", module, *which, "--ray", ray.get_runtime_context().gcs_address]

    def state(self, jobs: Collection[str]) -> Mapping[str, JobSeen]:
        """See `Jobs.state`."""
        seen = {}
        for job in jobs:
            details = self._details(job)
            if details is not None:
                seen[job] = JobSeen(_STATES[details.status], _why(details), details.driver_exit_code == TRY_AGAIN)
        return seen

    def stop(self, job: str) -> None:
        """See `Jobs.stop`."""
        details = self._details(job)
        if details is None or details.status.is_terminal():
            return
        try:
            self._connected().stop_job(job)
        except (OSError, RuntimeError) as error:
            raise self._away(error) from error

    def _details(self, job: str) -> JobDetails | None:
        try:
            return self._connected().get_job_info(job)
        except RuntimeError as error:
            if str(error).startswith(_NO_SUCH_JOB):
                return None
            raise self._away(error) from error
        except OSError as error:
            raise self._away(error) from error

    def _connected(self) -> JobSubmissionClient:
        if self._client is None:
            self._client = OwnJobClient(ray.get_runtime_context().gcs_address)
        return self._client

    def _away(self, error: Exception) -> Unreachable:
        self._client = None  # the dashboard may come back elsewhere
        return Unreachable(
            f"Ray's jobs can't be asked: {_ADDRESSES.sub('', first_line(error))}",
            where="ray dashboard",
            remedy="scheduled batches are submitted through it: see that it runs",
        )


def _asked(wanted: SubmitJob) -> list[str]:
    """What the job of a run that a person asked for is told beside."""
    if not wanted.by_hand:
        return []
    unfinished = ["--resume" if wanted.resumes else "--give-up", wanted.unfinished] if wanted.unfinished else []
    return ["--by-hand", *unfinished]


def _why(details: JobDetails) -> str:
    """The job's last words, without Ray's preface and the log lines before them."""
    if details.status not in (JobStatus.FAILED, JobStatus.STOPPED):
        return ""
    lines = [line.strip() for line in (details.message or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "the job failed"
