"""Hands a command of ours to the cluster as a Ray Job, so that it goes on when this terminal is closed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import Conflict, Unreachable
from cluster.foreign import first_line
from headrace.local.home import Settings
from headrace.local.ray.connection import prepare_ray
from headrace.local.run_state import load_run


def submit_command(settings: Settings, arguments: Sequence[str], *, job: str) -> str:
    """Runs `headrace ARGUMENTS` on the cluster under the id `job`, and returns where to follow it.

    Returns as soon as the cluster has taken it. Raises Conflict where a job of this id exists, Unreachable where the dashboard
    does not answer.
    """
    run = load_run(settings.home)
    address = prepare_ray(settings)
    dashboard = run.addresses.dashboard if run and settings.ray_address is None else None
    # Ray reads its variables when it is imported.
    from ray.job_submission import JobSubmissionClient

    from consumers.batch.ray_inside import OwnJobClient

    # On a local cluster the job uses this very installation; elsewhere what the node has.
    local = settings.ray_address is None
    program = str(Path(sys.executable).with_name("headrace")) if local else "headrace"
    # Ray sets RAY_ADDRESS of a job to whichever Ray of the machine it finds first.
    variables = {"HEADRACE_HOME": str(settings.home.root), "HEADRACE_RAY_ADDRESS": address} if local else {}
    url = settings.url or (run.addresses.http if run else None)
    if url:
        variables["HEADRACE_URL"] = url
    # Paths that hold on the job's node too.
    tls = {"CA_FILE": settings.ca_file, "CLIENT_CERT": settings.client_cert, "CLIENT_KEY": settings.client_key}
    variables |= {f"HEADRACE_{name}": str(Path(path).absolute()) for name, path in tls.items() if path is not None}
    try:
        client = (OwnJobClient if local else JobSubmissionClient)(dashboard or address)
        client.submit_job(
            entrypoint=shlex.join([program, *arguments]),
            submission_id=job,
            runtime_env={"env_vars": variables},
            entrypoint_num_cpus=0,
        )
    except (ConnectionError, RuntimeError) as error:
        if "already exists" in str(error):
            raise Conflict("a job of this id exists", where=job, remedy="see it in the Ray dashboard") from error
        raise Unreachable(
            f"the job can't be submitted: {first_line(error)}",
            where=dashboard or address,
            remedy="jobs go through the Ray dashboard: see that it runs",
        ) from error
    return dashboard or address
