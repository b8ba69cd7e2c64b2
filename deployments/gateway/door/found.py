"""The doors of this machine, as their folders tell: for commands, which know a run's id and no Ray node's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import Conflict
from deployments.gateway.door.configuration import CERTIFICATE, LOCAL
from deployments.gateway.door.files import is_locked
from deployments.gateway.door.keeper import KEEPER_LOCK
from deployments.gateway.door.renewals import REFUSED
from deployments.gateway.door.settings import DoorSettings, read_settings
from deployments.gateway.door.slots import NAME, check_folder, folder_of, root, taken_slots


@dataclass(frozen=True, slots=True)
class FoundDoor:
    """One node's door. `gateways` are how many stand behind it; where no keeper runs, nobody listens. Of a door with TLS,
    `local` is the socket by which this user's commands come in, `certificate` what it shows, and `trouble` why it did not take up
    what is new."""

    http: str
    grpc: str | None
    keeper: bool
    gateways: int
    local: Path | None = None
    certificate: Path | None = None
    trouble: str = ""


def doors_of(run: str) -> list[FoundDoor]:
    """Those of a run of `headrace up`."""
    return [
        FoundDoor(
            http=f"{settings.host}:{settings.http_port}",
            grpc=None if settings.grpc_port is None else f"{settings.host}:{settings.grpc_port}",
            keeper=is_locked(folder / KEEPER_LOCK),
            gateways=len(taken_slots(folder, settings.slots)),
            local=None if settings.tls is None else folder / LOCAL,
            certificate=None if settings.tls is None else folder / CERTIFICATE,
            trouble=_trouble(folder),
        )
        for folder, settings in _folders(run)
    ]


def keeper_of(node_id: str) -> int:
    """The process of a node's keeper, whose only child is HAProxy. Raises FileNotFoundError or ValueError where there is none."""
    return int((folder_of(node_id) / KEEPER_LOCK).read_text(encoding="utf-8"))


def remove_doors(run: str) -> None:
    """Removes what killed keepers of a run left. Nothing of it may run any more."""
    for folder, _ in _folders(run):
        shutil.rmtree(folder, ignore_errors=True)


def _trouble(folder: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (folder / REFUSED).read_text(encoding="utf-8")
    return ""


def _folders(run: str) -> Iterator[tuple[Path, DoorSettings]]:
    for folder in sorted(root().glob(f"{NAME}*")):
        try:
            check_folder(folder)
            settings = read_settings(folder)
        except (Conflict, FileNotFoundError, PermissionError):
            continue  # another user's, another version's, or just made or removed
        if settings.run == run:
            yield folder, settings
