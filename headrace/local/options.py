"""What the user chose for `headrace up`. Kept in run.json: what is brought back later is brought back as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from cluster.errors import BadInput
from deployments.gateway.door.settings import ClientCertificates, DoorTls, is_loopback
from deployments.observe.logs.settings import LogForm, LogLevel, LogSettings
from deployments.observe.traces.settings import URL_VARIABLE, USUAL_RATIO, TraceSettings
from deployments.signing.node_policy import POLICY_VARIABLE

LOOPBACK = "127.0.0.1"
ONCE = ("access", "models", "take_over")
"""What these ask for is done once, also to what runs: the store has all that became of it since."""
NO_POLICY = "none"
"""Said in place of a policy, it ends one that was declared before."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user chose.

    `hosts` are names by which the gateway takes commands, beside the machine's own. There are `gateways` of them, by load up to
    `most_gateways`. `num_cpus` is how many CPUs Ray may hand out; None: as many as the machine has. `insecure`: a cluster may be
    joined without a token, and a door opened to the network in clear, or where nothing says who may come in. `access` is the file
    of an Access document, or empty. `prometheus`: run Prometheus and Alertmanager too. `models` is a folder of versions that an
    image brings, or empty. `signing` is the file of a signing policy; empty: what was declared before, if anything.
    Gateways run where nodes have the resource `gateways_on` alone, a unit each; empty: on any.
    `traces` is the URL of a receiver of OTLP, or empty, and `trace_ratio` how much of what brings no trace context is traced. All
    processes log in `log_form`, from `log_level` on.
    `take_over`: the store is taken also from another cluster whose controller lives, this once.
    The door speaks TLS with the files `tls_cert` and `tls_key`, by absolute paths, and knows callers by certificates of
    `client_ca`.
    """

    host: str = LOOPBACK
    hosts: tuple[str, ...] = ()
    http_port: int = 8000
    grpc_port: int = 9000
    gateways: int = 1
    most_gateways: int = 1
    gateways_on: str = ""
    dashboard_port: int = 8265
    broker: bool = False
    broker_port: int = 9092
    num_cpus: int | None = None
    insecure: bool = False
    access: str = ""
    prometheus: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None
    client_certs: ClientCertificates | None = None
    models: str = ""
    signing: str = ""
    traces: str = ""
    trace_ratio: float = USUAL_RATIO
    log_form: LogForm = LogForm.TEXT
    log_level: LogLevel = LogLevel.WARNING
    take_over: bool = False

    def __post_init__(self) -> None:
        """Raises BadInput where one option for TLS lacks another, or traces can't go there."""
        if self.traces:
            TraceSettings(self.traces, self.trace_ratio)
        pair = {"--tls-cert": self.tls_cert, "--tls-key": self.tls_key}
        asked = {**pair, "--client-ca": self.client_ca, "--client-certs": self.client_certs}
        lacking = [name for name, value in pair.items() if value is None]
        if any(asked.values()) and lacking:
            where = " ".join(name for name, value in asked.items() if value is not None)
            raise BadInput("TLS needs a certificate and its key", where=where, remedy=f"give {' and '.join(lacking)} too")
        if self.client_certs is not None and self.client_ca is None:
            raise BadInput(
                "there is no authority to know callers' certificates by", where="--client-certs", remedy="give --client-ca too"
            )

    @property
    def trace_settings(self) -> TraceSettings | None:
        """Where traces go. Raises BadInput."""
        return TraceSettings(self.traces, self.trace_ratio) if self.traces else None

    @property
    def variables(self) -> dict[str, str]:
        """What tells each process of the cluster how to log, where traces go, and which versions must be signed. Raises
        BadInput."""
        traces = self.trace_settings
        told = traces.variables if traces is not None else {URL_VARIABLE: ""}
        return {**told, **LogSettings(self.log_form, self.log_level).variables, POLICY_VARIABLE: self.signing}

    @property
    def tls(self) -> DoorTls | None:
        """What the door speaks TLS with."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return DoorTls(self.tls_cert, self.tls_key, self.client_ca, self.client_certs or ClientCertificates.OPTIONAL)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine's processes reach the door."""
        return is_loopback(self.host)


# As the command line names them, where that is not their own name.
_NAMES = {"hosts": "--allow-host", "most_gateways": "--gateways"}


def not_taken_up(wanted: UpOptions, runs: UpOptions | None) -> tuple[str, ...]:
    """Which options somebody asked for that what runs was not started with: it keeps its own. None for those left out. Pure."""
    if runs is None:  # of a version that did not note them
        return ()
    usual = UpOptions()
    names = (one.name for one in fields(UpOptions) if one.name not in ONCE)
    asked = [name for name in names if getattr(wanted, name) != getattr(usual, name)]
    none = "" if wanted.signing == NO_POLICY else wanted.signing
    return words_for(name for name in asked if (none if name == "signing" else getattr(wanted, name)) != getattr(runs, name))


def words_for(names: Iterable[str]) -> tuple[str, ...]:
    """These fields of UpOptions as the command line names them, each option once. Pure."""
    return tuple(dict.fromkeys(_NAMES.get(name, f"--{name.replace('_', '-')}") for name in names))
