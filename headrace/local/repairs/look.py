"""Looks at each part of a run, by its process and by asking it. Needs no Ray, and takes milliseconds where all is well."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from cluster.commands import feeds
from cluster.commands.command import Nothing
from cluster.errors import Fenced, HeadraceError, NoCapacity, Unreachable
from headrace.client import ControlClient
from headrace.local.home import Settings
from headrace.local.home_key import home_key
from headrace.local.ports import answers, split_address
from headrace.local.repairs.parts import HELPERS, Away, RunPart
from headrace.local.run_state import BROKER, GCS, RAYLET, RunState
from headrace.transport import transport_to

ASK_S = 5.0


def look(state: RunState, settings: Settings, *, ask_s: float = ASK_S, ask_controller: bool = True) -> tuple[Away, ...]:
    """What of the run is away; of one whose Ray is dead, that alone. `ask_s` is how long each part may take to answer; the
    gateway is asked as the home's own."""
    ray = tuple(_ray(state))
    return ray or (*_beside(state, ask_s), *_services(state, settings, ask_s, ask_controller=ask_controller))


def _ray(state: RunState) -> Iterator[Away]:
    if not state.ray_lives():
        gone = [one for one in state.processes if one.role in (RAYLET, GCS) and one.find() is None]
        told = ", ".join(f"{one.role} (pid {one.pid})" for one in gone)
        yield Away(RunPart.RAY, f"{told or RunPart.RAY} has ended")
    elif state.addresses.ray is None:
        yield Away(RunPart.RAY, "its start was never finished")


def _beside(state: RunState, ask_s: float) -> Iterator[Away]:
    for one in state.processes:
        if one.role in HELPERS and one.find() is None:
            yield Away(RunPart(one.role), f"pid {one.pid} has ended")
    broker = state.process(BROKER)
    if broker is not None and broker.find() is None:
        yield Away(RunPart.BROKER, f"pid {broker.pid} has ended")
    elif broker is not None and state.addresses.broker and not answers(*split_address(state.addresses.broker), timeout_s=ask_s):
        yield Away(RunPart.BROKER, f"nothing answers at {state.addresses.broker}")


def _services(state: RunState, settings: Settings, ask_s: float, *, ask_controller: bool) -> Iterator[Away]:
    url = state.addresses.http
    if url is None:
        yield Away(RunPart.GATEWAY, "it was never started")
        return
    try:
        # Whatever is said: a gateway said it. One that is away is waited for at the door, longer than we ask.
        with httpx.Client(transport=transport_to(url, settings), timeout=ask_s, trust_env=False) as client:
            client.get(f"{url}/v2/health/live").raise_for_status()
    except (httpx.HTTPError, HeadraceError) as error:
        yield Away(RunPart.GATEWAY, f"{url} does not answer: {_said(error)}")
        return
    if ask_controller:
        try:
            token = home_key(settings.home)
            with ControlClient(url, timeout_s=ask_s, transport=transport_to(url, settings), token=token) as control:
                control.call(feeds.LIST, Nothing())
        except (Unreachable, NoCapacity, Fenced) as error:
            yield Away(RunPart.CONTROLLER, error.what)
        except HeadraceError:
            return  # another version's answer, or a refusal: it is there


def _said(error: httpx.HTTPError | HeadraceError) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
