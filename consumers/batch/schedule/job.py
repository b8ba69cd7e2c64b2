"""One scheduled run, in a job of its own: `python -m consumers.batch.schedule.job BATCH --fire ID --as-of DATE --ray ADDRESS`.

A run that a person asked for is one too: `--by-hand`, with `--resume RUN` or `--give-up RUN` where one was left unfinished.

It asks the controller's actor, not the gateway: a scheduled run needs nothing but the cluster.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import date
from functools import partial

from cluster.commands.feeds import FeedName, FeedView
from cluster.commands.versions import Resolve, ResolvedVersion
from cluster.errors import HeadraceError
from consumers.batch.batch_meter import BatchMeter
from consumers.batch.run import NothingNew, RunProgress, Watcher, Workforce, begin, resume
from consumers.batch.spec import BatchSpec, ScoringPlace
from consumers.batch.traced import traced
from consumers.batch.write.publish import RunManifest
from consumers.batch.write.records import Pinned
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from deployments.control.asking import PAUSE_S, Call, ask_patiently
from deployments.observe.logs.set_up import log_to_stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 where the fire's run is published, whoever published it, or nothing was to do."""
    parser = ArgumentParser(description="One scheduled run of a batch.")
    parser.add_argument("batch")
    parser.add_argument("--fire", required=True)
    parser.add_argument("--as-of", required=True, type=date.fromisoformat)
    parser.add_argument("--ray", required=True)
    parser.add_argument("--by-hand", action="store_true")
    parser.add_argument("--resume", default="", metavar="RUN")
    parser.add_argument("--give-up", default="", metavar="RUN")
    given = parser.parse_args(arguments)
    log_to_stderr(batch=given.batch)
    # Not needed to read the arguments, and slow to import.
    import ray

    from consumers.batch.score.pool import ray_workforce
    from deployments.control.client import NAMESPACE, ActorControlPlane

    ray.init(address=given.ray, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    try:
        spec, pinned = asyncio.run(find(given.batch, ActorControlPlane().call))
        remote = spec.scoring is ScoringPlace.REMOTE
        meter = BatchMeter(ActorControlPlane(), given.batch, pinned.model, pinned.version, remote=remote, run=given.fire)
        run = partial(run_asked, resumed=given.resume, given_up=given.give_up) if given.by_hand else run_fire
        with meter, traced(ray_workforce(), meters=meter.meters) as workforce:
            watch = meter.watching(_log)
            manifest = run(given.batch, spec, pinned, workforce, as_of=given.as_of, fire=given.fire, watch=watch)
    except HeadraceError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the job's log, of which the schedule's history shows the last line
        return 1
    if manifest is not None:
        print(manifest.model_dump_json())  # noqa: T201
    return 0


def run_asked(
    name: str,
    spec: BatchSpec,
    pinned: Pinned,
    workforce: Workforce,
    *,
    as_of: date,
    fire: str,
    resumed: str = "",
    given_up: str = "",
    watch: Watcher | None = None,
) -> RunManifest | None:
    """What a person asked for: goes on with the run `resumed`; else makes a new one, and gives up none but that of `given_up`.

    None where the batch scores only new files and there are none. Raises Conflict where another run is unfinished, else as
    `begin` and `resume`.
    """
    if resumed:
        return resume(name, spec.output.path, workforce, watch=watch or _log, run_id=resumed)
    fresh = given_up != "" and left_unfinished(spec) == given_up
    return run_fire(name, spec, pinned, workforce, as_of=as_of, fire=fire, watch=watch, fresh=fresh)


def left_unfinished(spec: BatchSpec) -> str:
    """The run that readers don't see yet; empty where there is none."""
    left = RunHistory(locate(spec.output.path)).unfinished()
    return left.run_id if left is not None else ""


async def find(batch: str, call: Call, *, pause_s: float = PAUSE_S) -> tuple[BatchSpec, Pinned]:
    """The applied document, and the version that the run is pinned to: the document's, or stable now.

    Waits for a controller that is being restarted. Raises Unreachable where it does not come back, and NotFound.
    """
    shown = FeedView.model_validate(await ask_patiently(call, "feed.show", FeedName(kind="batch", name=batch), pause_s=pause_s))
    spec = BatchSpec.model_validate(shown.spec)
    asked = Resolve(model=spec.model, version=spec.version)
    found = ResolvedVersion.model_validate(await ask_patiently(call, "version.resolve", asked, pause_s=pause_s))
    return spec, Pinned.of(found)


def run_fire(
    name: str,
    spec: BatchSpec,
    pinned: Pinned,
    workforce: Workforce,
    *,
    as_of: date,
    fire: str,
    watch: Watcher | None = None,
    fresh: bool = True,
) -> RunManifest | None:
    """Makes the fire's run, or goes on with it. None where the batch scores only new files and there are none. Raises as
    `begin`."""
    try:
        return begin(name, spec, pinned, workforce, as_of=as_of, fresh=fresh, watch=watch or _log, fire=fire)
    except NothingNew as error:
        print(error, flush=True)  # noqa: T201 - the job's log
        return None


def _log(seen: RunProgress) -> None:
    rate = f", {seen.rows_per_s:,.0f} rows/s" if seen.rows_per_s else ""
    line = f"{seen.units_done}/{seen.units} units, {seen.rows_done:,} of {seen.rows:,} rows{rate}"
    print(line, flush=True)  # noqa: T201 - the job's log


if __name__ == "__main__":
    sys.exit(main())
