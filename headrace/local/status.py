"""What runs, as `headrace status` tells it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.commands.command import Nothing
from cluster.commands.feeds import FeedView
from cluster.commands.models import ModelView
from cluster.commands.status import STATUS
from cluster.errors import BadInput, Unreachable
from deployments.gateway.door.certificates import end_of
from deployments.gateway.door.found import doors_of
from headrace.control_calls import ControlCalls
from headrace.local.home import Settings
from headrace.local.ray.dashboard import DashboardAsker
from headrace.local.ray.head import ray_logs
from headrace.local.ray.replaced import ReplacedView, replaced
from headrace.local.ray.where import NodeView, nodes_of
from headrace.local.run_state import BROKER, Addresses, RunState, load_run


class DoorView(BaseModel):
    """A door on this machine, of this run. `is_open` is False where nobody listens; `gateways` are how many stand behind it.

    With TLS, `certificate_ends_s` is in Unix time, and `trouble` says why it did not take up what is new.
    """

    model_config = ConfigDict(frozen=True)

    http: str
    grpc: str | None
    is_open: bool
    gateways: int
    certificate_ends_s: float | None = None
    trouble: str = ""


class Overview(BaseModel):
    """Everything at a glance. `nodes` is None where no dashboard can be asked, `token_refused` where it answers and wants another
    token; `tick_s` is when the controller last looked.

    `replaced` are replicas that ended by themselves, None as `nodes` is; `logs` are this machine's folders of them; `left_out`
    says what of an image's versions could not be taken, and why.
    """

    model_config = ConfigDict(frozen=True)

    addresses: Addresses
    doors: tuple[DoorView, ...] = ()
    nodes: tuple[NodeView, ...] | None
    token_refused: bool = False
    table: int
    tick_s: float
    models: tuple[ModelView, ...]
    feeds: tuple[FeedView, ...]
    replaced: tuple[ReplacedView, ...] | None = None
    logs: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def look(settings: Settings) -> Overview:
    """Asks the gateway and the dashboard. Raises Unreachable where the gateway does not answer, or its Ray is dying."""
    run = load_run(settings.home)
    with ControlCalls.from_environment(settings) as client:  # not ControlClient, which knows all commands: half the time to start
        if run and run.addresses.http == client.base_url:
            _check_alive(run, settings)
        seen = client.call(STATUS, Nothing())
        addresses = run.addresses if run and run.addresses.http == client.base_url else Addresses(http=client.base_url)
    dashboard = None
    if addresses.dashboard:
        owns_ray = run is not None and run.owns_ray
        dashboard = DashboardAsker(addresses.dashboard, settings.home, owns_ray=owns_ray)
    nodes = nodes_of(dashboard) if dashboard else None
    here = run if run is not None and run.addresses.http == client.base_url else None
    return Overview(
        addresses=addresses,
        doors=_doors(here.run_id) if here else (),
        nodes=nodes,
        token_refused=dashboard is not None and dashboard.token_refused,
        table=seen.table,
        tick_s=seen.tick_s,
        models=seen.models,
        feeds=seen.feeds,
        replaced=replaced(dashboard) if dashboard and nodes is not None else None,
        logs=_logs(here, settings) if here else (),
        left_out=here.left_out if here else (),
    )


def _logs(run: RunState, settings: Settings) -> tuple[str, ...]:
    """Our own commands' and the broker's; Ray's processes'; those of replicas, the gateway's and streams' too."""
    home = settings.home
    ours = [home.logs, *([home.broker / "broker.log"] if run.process(BROKER) is not None else [])]
    rays = ray_logs(home)
    return tuple(str(path) for path in (*ours, *([rays, rays / "serve"] if run.owns_ray else [])))


def _check_alive(run: RunState, settings: Settings) -> None:
    """What a Ray without its raylet or its GCS left behind may answer for a while, but not for long."""
    if not run.ray_lives():
        raise Unreachable("Ray has ended", where=str(settings.home.run_file), remedy="`headrace up` finds the way back")


def _doors(run_id: str) -> tuple[DoorView, ...]:
    return tuple(
        DoorView(
            http=door.http,
            grpc=door.grpc,
            is_open=door.keeper,
            gateways=door.gateways,
            certificate_ends_s=_end_s(door.certificate),
            trouble=door.trouble,
        )
        for door in doors_of(run_id)
    )


def _end_s(certificate: Path | None) -> float | None:
    with contextlib.suppress(BadInput):  # the door has just ended, and its folder with it
        return None if certificate is None else end_of(certificate).timestamp()
    return None
