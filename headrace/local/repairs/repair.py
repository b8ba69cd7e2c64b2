"""Brings back the parts of a living run that are away, each alone. What lives is left as it is, whatever comes of this."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cluster.errors import HeadraceError, NoCapacity, Unauthenticated, Unreachable
from headrace.client import ControlClient
from headrace.local.broker import start_broker
from headrace.local.down import Progress
from headrace.local.home import Settings
from headrace.local.home_key import home_key
from headrace.local.options import UpOptions
from headrace.local.ports import split_address
from headrace.local.ray.connection import joined_ray
from headrace.local.ray.processes import start_again
from headrace.local.ray.words import kept_apart
from headrace.local.repairs.parts import Away, RunPart, plan
from headrace.local.run_state import BROKER, RunState, StartedProcess, save_run
from headrace.transport import transport_to

GATEWAY_TIMEOUT_S = 120.0
POLL_S = 0.1
IN_RAY = (RunPart.CONTROLLER, RunPart.GATEWAY)


def repair(
    state: RunState, away: tuple[Away, ...], settings: Settings, progress: Progress, *, take_over: bool = False
) -> tuple[RunState, tuple[RunPart, ...]]:
    """Brings back what is away. Ray itself must live. With `take_over` a controller takes the store also from another
    cluster's that lives. Returns what runs now, and what was brought back.

    Each that can be is brought back, also where another can't: that one's error is raised in the end, with the rest left at work.
    """
    wanted, why = plan(away), {one.part: one.why for one in away}
    failed: HeadraceError | None = None
    for part in wanted:
        if part in IN_RAY:
            continue
        try:
            with _step(progress, part, why.get(part, "")):
                state = _bring_back(state, part, settings)
        except HeadraceError as error:
            failed = failed or error
    inside = tuple(part for part in wanted if part in IN_RAY)
    if inside:
        _bring_back_inside(state, inside, why, settings, progress, take_over=take_over)
    if failed is not None:
        raise failed
    return state, wanted


def _bring_back(state: RunState, part: RunPart, settings: Settings) -> RunState:
    if part is RunPart.BROKER:
        _, port = split_address(str(state.addresses.broker))
        broker = start_broker(settings.home.broker, port=port)
        process = StartedProcess(role=BROKER, pid=broker.pid, created_s=broker.created_s)
    else:
        process = start_again(settings.home, state, part)
    state = state.with_process(process)
    save_run(settings.home, state)
    return state


def _bring_back_inside(
    state: RunState,
    parts: tuple[RunPart, ...],
    why: Mapping[RunPart, str],
    settings: Settings,
    progress: Progress,
    *,
    take_over: bool,
) -> None:
    with kept_apart(settings.home.driver_log), joined_ray(settings):
        from headrace.controller_start import bring_back_controller  # imports Ray, whose variables are set by now
        from headrace.local import services

        begun = time.monotonic()

        def waits(error: HeadraceError) -> None:
            progress(RunPart.CONTROLLER, f"waits, and what serves goes on: {error}", time.monotonic() - begun)

        if RunPart.GATEWAY in parts:
            services.start_serve()
        with _step(progress, RunPart.CONTROLLER, why.get(RunPart.CONTROLLER, "")):
            bring_back_controller(settings, waits, state.ray_lives, take_over=take_over)
        if RunPart.GATEWAY in parts:
            with _step(progress, RunPart.GATEWAY, why[RunPart.GATEWAY]):
                services.ask_for_gateway(services.gateway_settings(state.options or UpOptions()))
                services.await_gateway_app()
    if RunPart.GATEWAY in parts:
        await_gateway(str(state.addresses.http), settings)


@contextmanager
def _step(progress: Progress, part: RunPart, why: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    progress(part, f"{why}; it is back" if why else "answers", time.monotonic() - begun)


def await_gateway(url: str, settings: Settings) -> None:
    """Returns once the controller answers through the gateway, which is asked as the home's own. Raises Unreachable with the last
    reason."""
    deadline = time.monotonic() + GATEWAY_TIMEOUT_S
    token, transport = home_key(settings.home), transport_to(url, settings)
    with ControlClient(url, timeout_s=5.0, transport=transport, token=token) as client:
        while True:
            try:
                client.status()
            except (Unreachable, Unauthenticated, NoCapacity):  # it may not have heard of the key yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)  # the gateway may wait for the controller
            else:
                return
