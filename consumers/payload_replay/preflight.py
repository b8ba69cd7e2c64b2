"""A candidate's preflight, in a job of its own: `python -m consumers.payload_replay.preflight MODEL --rollout ID ...`."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
from collections.abc import Sequence

from cluster.commands.rollouts import TellPreflight
from cluster.commands.versions import Resolve, ResolvedVersion
from cluster.errors import HeadraceError
from cluster.rollout.blame import TRANSIENT
from cluster.rollout.preflight import Preflight
from cluster.schedule.jobs import TRY_AGAIN
from consumers.payload_replay.places import requests_of
from consumers.payload_replay.replay import replay
from deployments.control.asking import PAUSE_S, Call, ask_patiently
from deployments.engines.load import load_engine
from deployments.observe.logs.set_up import log_to_stderr
from deployments.signing.admission import open_admitted


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 where the controller knows what came of it, good or bad; TRY_AGAIN where what it takes was away."""
    parser = argparse.ArgumentParser(description="Recorded requests put to a rollout's candidate.")
    parser.add_argument("model")
    parser.add_argument("--version", required=True, type=int)
    parser.add_argument("--rollout", required=True, type=int)
    parser.add_argument("--asked", required=True, type=Preflight.model_validate_json)
    parser.add_argument("--ray", required=True)
    given = parser.parse_args(arguments)
    log_to_stderr(model=given.model, version=given.version)
    # Not needed to read the arguments, and slow to import.
    import ray

    from deployments.control.client import NAMESPACE, ActorControlPlane

    ray.init(address=given.ray, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    try:
        told = asyncio.run(preflight(given.model, given.version, given.rollout, given.asked, ActorControlPlane().call))
    except HeadraceError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the job's log, of which the rollout shows the last line
        return TRY_AGAIN if isinstance(error, TRANSIENT) else 1
    print(told.model_dump_json())  # noqa: T201
    return 0


async def preflight(
    model: str, version: int, rollout: int, asked: Preflight, call: Call, *, pause_s: float = PAUSE_S
) -> TellPreflight:
    """Puts the requests to the version, in this process, and tells the controller. Waits for one that is being restarted.

    Raises NotFound, BadInput or Unreachable for the log, what opening the version raises, and Unreachable where the controller
    does not come back.
    """
    found = ResolvedVersion.model_validate(
        await ask_patiently(call, "version.resolve", Resolve(model=model, version=version), pause_s=pause_s)
    )
    requests = itertools.islice(requests_of(asked.payloads, model, found.signature, found.payloads), asked.max_requests)
    engine = load_engine(open_admitted(found.artifact_uri, found.digest, model))
    came = replay(requests, engine, model, version, tolerance=asked.tolerance, limits=found.outputs)
    failed = came.errors - came.lasting_errors
    told = TellPreflight(
        model=model, rollout=rollout, same=came.same, different=came.different, failed=failed, p99_ms=came.p99_ms
    )
    await ask_patiently(call, "rollout.preflight", told, pause_s=pause_s)
    return told


if __name__ == "__main__":
    sys.exit(main())
