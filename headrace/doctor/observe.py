"""Looks at a cluster: each node by a task of Ray, and store, controller and brokers from here. Judges nothing."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cluster.commands.feeds import FeedView
from cluster.commands.models import ModelView
from cluster.commands.status import StatusView
from cluster.commands.versions import VersionView
from cluster.errors import HeadraceError, Unreachable
from cluster.store.engine import ask_store
from deployments.artifacts.roots import local_path
from headrace.client import ControlClient
from headrace.doctor import on_node
from headrace.doctor.artifacts import ask_artifact
from headrace.doctor.seen import ClusterSeen, CopiesSeen, MachineSeen, MemberSeen, TroubleSeen
from headrace.local.home import Settings, without_password
from headrace.local.ray.connection import joined_ray
from headrace.local.ray.head import SERVE_ENVIRONMENT
from headrace.local.ray.words import kept_apart
from headrace.local.run_state import Phase, RunState, load_run

SERVING = ("stable", "candidate", "warm")


@dataclass(slots=True)
class Asked:
    """What nodes are asked for, and the troubles met on the way."""

    files: dict[str, str] = field(default_factory=dict)
    brokers: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    home: str = ""
    marker: str = ""
    listeners: dict[str, tuple[str, ...]] = field(default_factory=dict)
    leaders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    copies: dict[str, CopiesSeen] = field(default_factory=dict)
    troubles: list[TroubleSeen] = field(default_factory=list)

    def met(self, error: HeadraceError) -> None:
        """Keeps what an error says."""
        self.troubles.append(TroubleSeen(where=error.where, what=error.what, remedy=error.remedy))


def observe(settings: Settings, ports: Sequence[int]) -> ClusterSeen:
    """All that can be seen. `ports` are those at which a door would open. What is away is told as a trouble, and raises nothing;
    raises Conflict for a run.json or token that can't be used."""
    asked, run = Asked(), load_run(settings.home)
    runs = settings.url is not None or (run is not None and run.phase is Phase.RUNNING)
    status = _status(settings, asked) if runs else None
    if not runs:
        asked.ports = tuple(ports)  # where something of ours runs, its own door has them
    if status is not None:
        asked.files = files_of(status.models)
        _ask_artifacts(status.models, asked)
    _ask_store(settings, asked)
    asked.brokers = _ask_brokers(settings, run, status.feeds if status is not None else (), asked)
    disks = (str(settings.home.root),)
    ray, members = "", tuple[MemberSeen, ...]()
    if settings.ray_address is not None or (run is not None and run.addresses.ray is not None):
        with _marker(settings, asked):
            ray, members = _ask_ray(settings, disks, asked)
    here = MachineSeen.model_validate(on_node.machine((), disks, (), () if members else asked.brokers, asked.ports))
    return ClusterSeen(
        ray=ray,
        here=here,
        members=members or (MemberSeen(id="", address="this machine", is_head=True, machine=here),),
        store=without_password(settings.store_url),
        store_is_file=settings.store_url.startswith("sqlite"),
        files=asked.files,
        home=asked.home,
        marker=asked.marker,
        brokers=asked.brokers,
        listeners=asked.listeners,
        leaders=asked.leaders,
        copies=asked.copies,
        troubles=tuple(asked.troubles),
    )


def files_of(models: Sequence[ModelView]) -> dict[str, str]:
    """Folders of versions that serve or may any moment, which every node must see. Those in object stores and registries are
    everywhere. Pure."""
    found = ((local_path(version.artifact_uri), version) for version in _serving(models))
    return {str(path): f"the files of {version.model}:{version.version}" for path, version in found if path is not None}


def _serving(models: Sequence[ModelView]) -> Iterator[VersionView]:
    return (version for model in models for version in model.versions if version.role in SERVING)


def _ask_artifacts(models: Sequence[ModelView], asked: Asked) -> None:
    """Those in object stores and registries, from here: whoever serves needs the same login."""
    for version in _serving(models):
        if local_path(version.artifact_uri) is not None:
            continue
        try:
            ask_artifact(version.artifact_uri)
        except HeadraceError as error:
            asked.met(error)


def _status(settings: Settings, asked: Asked) -> StatusView | None:
    """None where it does not answer, which is told."""
    try:
        with ControlClient.from_environment(settings, patient=False) as client:
            return client.status()
    except HeadraceError as error:
        asked.met(error)
        return None


def _ask_store(settings: Settings, asked: Asked) -> None:
    try:
        ask_store(settings.store_url)
    except HeadraceError as error:
        asked.met(error)


def _ask_brokers(settings: Settings, run: RunState | None, feeds: Sequence[FeedView], asked: Asked) -> tuple[str, ...]:
    """Every address that brokers are reached by, as they tell it themselves."""
    usual = settings.bootstrap_servers or (run.addresses.broker if run is not None else None)
    streams = [feed for feed in feeds if feed.kind == "stream"]
    if usual is None and not streams:
        return ()
    from consumers.stream.kafka.check_up import check_up  # a client of Kafka
    from consumers.stream.security import Security
    from consumers.stream.spec import StreamSpec

    found: list[str] = []
    specs = {feed.name: StreamSpec.model_validate(feed.spec) for feed in streams}
    told: list[tuple[str | None, Security, StreamSpec | None, str]] = [
        (spec.brokers or usual, spec.security, spec, name) for name, spec in specs.items()
    ]
    if usual is not None and all(brokers != usual for brokers, *_ in told):
        told.append((usual, Security(), None, ""))
    for brokers, security, spec, name in told:
        if brokers is None:
            what = "nothing says which broker it reads"
            asked.troubles.append(TroubleSeen(where=f"stream {name}", what=what, remedy="set spec.brokers"))
            continue
        seen = check_up(brokers, security, spec, name)
        found += [*(each.strip() for each in brokers.split(",")), *seen.addresses]
        asked.copies.setdefault(brokers, CopiesSeen.model_validate(seen.copies))
        # Each stream's user sees other topics.
        for known, more in ((asked.listeners, seen.addresses), (asked.leaders, seen.leaders)):
            known[brokers] = tuple(dict.fromkeys((*known.get(brokers, ()), *more)))
        for error in seen.troubles:
            asked.met(error)
    return tuple(dict.fromkeys(found))


@contextlib.contextmanager
def _marker(settings: Settings, asked: Asked) -> Iterator[None]:
    """A file beside the home's versions, for as long as nodes look for it; none where there is no such folder yet."""
    folder = settings.home.artifacts
    if not folder.is_dir():
        yield
        return
    marker = folder / f".doctor-{secrets.token_hex(8)}"
    try:
        marker.touch(mode=0o600)
    except OSError as error:
        remedy = "give the user of this command rights to it"
        asked.troubles.append(TroubleSeen(where=str(folder), what=f"can't be written: {error.strerror}", remedy=remedy))
        yield
        return
    try:
        asked.home, asked.marker = str(folder), str(marker)
        yield
    finally:
        marker.unlink(missing_ok=True)


def _ask_ray(settings: Settings, disks: Sequence[str], asked: Asked) -> tuple[str, tuple[MemberSeen, ...]]:
    """Its address and nodes; empty where it can't be joined, which is told."""
    settings.home.make()  # Ray's own words go to a file there
    try:
        with kept_apart(settings.home.driver_log), joined_ray(settings) as joined:
            from headrace.doctor.nodes import ask_nodes  # imports Ray, whose variables are set by now

            paths = (*asked.files, *((asked.marker,) if asked.marker else ()))
            members = ask_nodes(tuple(SERVE_ENVIRONMENT), disks, paths, asked.brokers, asked.ports)
            return joined.address, members
    except HeadraceError as error:
        asked.met(error)
    except Exception as error:  # noqa: BLE001 - Ray raises of all kinds where versions differ; what it says is the finding
        asked.met(Unreachable(f"Ray can't be asked: {error}", where=settings.ray_address or "", remedy="look into Ray's logs"))
    return "", ()
