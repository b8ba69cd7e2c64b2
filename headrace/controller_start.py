"""Has the controller's process run on the head node, and waits until it answers. To be imported inside `joined_ray` only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.commands.command import Message
from cluster.commands.documents import APPLY, Applied, Apply
from cluster.commands.keys import HOME_ADMIT
from cluster.errors import Conflict, HeadraceError, Unreachable
from cluster.routing.routes import NOTHING
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE
from headrace.audit.places import place_of
from headrace.controller_actor import FEEDS, FLEET, JOBS, STARTING, TICK_S, ControllerActor
from headrace.local.home import Settings, without_password
from headrace.local.home_key import ensure_home_key

START_TIMEOUT_S = 60.0
ASK_S = 10.0
LONG_POLLS = 5_000  # calls at a time; each scorer has one long poll under way


Waits = Callable[[HeadraceError], None]


def _silent(_: HeadraceError) -> None:
    """Nobody is told what it waits for."""


def _once(waits: Waits, told: str = "") -> Waits:
    """Told of each reason once in a row, and not of `told` to begin with."""

    def tell(error: HeadraceError) -> None:
        nonlocal told
        if error.what != told:
            waits(error)
            told = error.what

    return tell


@contextmanager
def asked_for_controller(settings: Settings) -> Iterator[None]:
    """Has the controller's process start, unless it runs, and does not wait; where the block fails, it is ended again."""
    known = _known()
    actor = _actor(settings)
    try:
        yield
    except BaseException:
        if not known:
            ray.kill(actor)
        raise


def start_controller(
    settings: Settings,
    *,
    fleet: str = FLEET,
    feeds: str = FEEDS,
    jobs: str = JOBS,
    timeout_s: float = START_TIMEOUT_S,
    access: Apply | None = None,
    take_over: bool = False,
    waits: Waits = _silent,
) -> tuple[str, ...]:
    """Starts the controller on the head node, unless it runs, and waits until it answers and has applied `access`: what is to be
    said of that. Ray must be connected. With `take_over` it takes the store also from another cluster's that lives. `waits` is
    told what it waits for, once for each reason.

    Raises Conflict where one runs over another store, Fenced where another cluster's has this one and lives, Unreachable where it
    does not answer in time, and BadInput for a store that can't be used.
    """
    for place in settings.audit_places:
        place_of(place)
    actor = _actor(settings, fleet, feeds, jobs)
    trouble = _trouble_of(actor, settings, timeout_s, take_over=take_over, waits=waits)
    if trouble is not None:
        # One that never began must not stay behind and begin later, by itself.
        ray.kill(actor)
        raise trouble
    _admit_home(actor, settings)
    if access is None:
        return ()
    applied = Applied.model_validate(_tell(actor, APPLY.name, access))
    return tuple(change.note for change in applied.changes if change.note)


def bring_back_controller(
    settings: Settings,
    waits: Waits,
    ray_lives: Callable[[], bool],
    timeout_s: float = START_TIMEOUT_S,
    *,
    take_over: bool = False,
) -> None:
    """Starts the controller where it is away; waits for one that can't begin yet, and leaves it to begin when it can.

    `waits` is told what it waits for, once for each reason; it waits as long as `ray_lives`. Raises what `start_controller`
    raises, for the same.
    """
    until, tell = time.monotonic() + timeout_s, _once(waits)
    while True:
        try:
            trouble = _trouble_of(_actor(settings), settings, TICK_S, take_over=take_over)
        except Unreachable as error:
            trouble = error  # Ray starts its process again just now
        if trouble is None:
            _admit_home(_actor(settings), settings)
            return
        if not isinstance(trouble, Unreachable) or time.monotonic() > until or not ray_lives():
            raise trouble
        tell(trouble)
        time.sleep(TICK_S)  # a store that is locked tells nobody when it is free


def _admit_home(actor: Any, settings: Settings) -> None:
    """Who has the home's key may do everything from now on. Raises Conflict where its file is not this user's alone,
    Unreachable."""
    _tell(actor, HOME_ADMIT.name, ensure_home_key(settings.home))


def _tell(actor: Any, command: str, request: Message) -> dict[str, Any]:
    """The answer. Raises what the command raises, and Unreachable."""
    try:
        answer = ray.get(actor.call.remote(command, request.model_dump(mode="json")), timeout=START_TIMEOUT_S)
    except RayError as error:
        what = f"the controller does not answer: {type(error).__name__}"
        raise Unreachable(what, where=CONTROLLER_ACTOR, remedy="look into Ray's logs") from error
    if isinstance(answer, HeadraceError):
        raise answer
    return dict(answer)


def _trouble_of(
    actor: Any,
    settings: Settings,
    timeout_s: float,
    *,
    take_over: bool = False,
    waits: Waits = _silent,
) -> HeadraceError | None:
    """Why the controller does not answer within `timeout_s`, in its own words; None once it does. Raises Conflict where it keeps
    another store, Unreachable where there is nobody to say why."""
    ask_s, tell = max(timeout_s, ASK_S), _once(waits, STARTING.what)
    try:
        about = ray.get(actor.about.remote(), timeout=ask_s)
        # Not before: a process that was slow to start has to see all the same whether another cluster's lives.
        until = time.monotonic() + timeout_s
        if about["store"] != settings.store_url:
            raise Conflict(
                f"the controller of this Ray keeps another store, {without_password(about['store'])}",
                where=without_password(settings.store_url),
                remedy="use that one's HEADRACE_HOME or HEADRACE_STORE_URL, or another Ray",
            )
        if about.get("rests"):  # a `headrace down` was interrupted, or took too long on a Ray that is not its own
            ray.get(actor.go_on.remote(), timeout=ask_s)
        if take_over:
            ray.get(actor.take_over.remote(), timeout=ask_s)
        answer = ray.get(actor.call.remote("status", {}), timeout=ask_s)
        while isinstance(answer, Unreachable) and time.monotonic() < until:
            tell(answer)
            answer = ray.get(actor.routes.remote(NOTHING, TICK_S), timeout=ask_s)
            answer = ray.get(actor.call.remote("status", {}), timeout=ask_s)
    except RayError as error:
        raise Unreachable(
            f"the controller does not answer: {type(error).__name__}", where=CONTROLLER_ACTOR, remedy="look into Ray's logs"
        ) from error
    return answer if isinstance(answer, HeadraceError) else None


def _known() -> bool:
    try:
        ray.get_actor(CONTROLLER_ACTOR, NAMESPACE)
    except ValueError:
        return False
    return True


def _actor(settings: Settings, fleet: str = FLEET, feeds: str = FEEDS, jobs: str = JOBS) -> Any:
    remote = ray.remote(ControllerActor).options(
        name=CONTROLLER_ACTOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=LONG_POLLS,
        resources={"node:__internal_head__": 0.001},
    )
    home = settings.home
    known_by = ensure_home_key(home).id, str(home.root)  # a home outlives its Ray, and no two clusters share one
    return remote.remote(settings.store_url, fleet, feeds, jobs, str(home.audit_key.absolute()), settings.audit_places, *known_by)
