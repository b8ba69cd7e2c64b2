"""What a node's door is told: written by the gateway that starts it, read by the keeper. No Ray, and quick to import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from cluster.errors import Conflict

FILE = "door.json"
# A process that `headrace up` starts carries the run's id in this variable, and so do all its children: none can hide.
RUN_VARIABLE = "HEADRACE_RUN_ID"
# When a sampled request came, in Unix microseconds; the door alone sets it.
CAME = "x-headrace-came"


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach a door there. Pure."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


class ClientCertificates(StrEnum):
    """Whether a caller must show a certificate of the client CA. One that is shown and does not hold is refused in any case."""

    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class DoorTls:
    """What a door speaks TLS with: PEM files of its node, by absolute paths, read again when they change. `certificate` is that
    of the door, and what leads to its authority; `client_ca` are authorities of callers."""

    certificate: str
    key: str
    client_ca: str | None = None
    client_certificates: ClientCertificates = ClientCertificates.OPTIONAL


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """One node's door. Without `tls` it speaks in clear, without `grpc_port` there is no gRPC.

    HAProxy can hand a request on only where it holds it whole: bodies of up to `handed_on_bytes`. A head, and what is held of a
    body, must come at `least_bytes_per_s`. An address, other than loopback, may have `unanswered_most` connections on which no
    answer is owed: nothing was asked yet, or not to the end, or all is answered.

    While no gateway is up, the keeper holds `held_most` requests, of `held_bytes` in all, each for `held_s`. It ends with the
    process `raylet_pid`, where there is one, and after `idle_s` without gateways. `run` is the id of its `headrace up`.
    """

    binary: str
    host: str
    http_port: int
    grpc_port: int | None
    slots: int
    threads: int = 1
    raylet_pid: int | None = None
    run: str = ""
    tls: DoorTls | None = None
    head_bytes: int = 16 << 10
    handed_on_bytes: int = 128 << 10
    least_bytes_per_s: int = 1 << 10
    connections_most: int = 16_384
    unanswered_most: int = 2048
    concurrent_streams: int = 2048
    held_most: int = 1024
    held_bytes: int = 64 << 20
    held_s: float = 60.0
    idle_s: float = 60.0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `asdict` made. Raises TypeError, ValueError or LookupError where it did not."""
        given = dict(document)
        if (tls := given.get("tls")) is not None:
            given["tls"] = DoorTls(**{**tls, "client_certificates": ClientCertificates(tls["client_certificates"])})
        return cls(**given)

    def write(self, folder: Path) -> None:
        """Replaces what the folder says, in one step."""
        fresh = folder / f"{FILE}.new"
        fresh.write_text(json.dumps(asdict(self)), encoding="utf-8")
        fresh.replace(folder / FILE)


def read_settings(folder: Path) -> DoorSettings:
    """What was written there. Raises Conflict where it is not what this version writes, FileNotFoundError where nothing is."""
    text = (folder / FILE).read_text(encoding="utf-8")
    try:
        return DoorSettings.from_document(json.loads(text))
    except (ValueError, TypeError, LookupError) as error:
        raise Conflict(
            f"another version of headrace wrote this: {error}", where=str(folder / FILE), remedy="end what runs, then remove it"
        ) from error
