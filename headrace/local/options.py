"""What the user chose for `headrace up`. Kept in run.json: what is brought back later is brought back as it was."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user chose.

    `hosts` are names by which the gateway takes commands, beside the machine's own. There are `gateways` of them, by load up
    to `most_gateways`. `num_cpus` is how many CPUs Ray may hand out; None: as many as the machine has. `insecure`: a cluster
    may be joined without a token.
    """

    host: str = LOOPBACK
    hosts: tuple[str, ...] = ()
    http_port: int = 8000
    grpc_port: int = 9000
    gateways: int = 1
    most_gateways: int = 1
    dashboard_port: int = 8265
    broker: bool = False
    broker_port: int = 9092
    num_cpus: int | None = None
    insecure: bool = False
