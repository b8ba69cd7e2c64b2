"""What must hold before anything is started: what was asked for can be had here, by whoever may use it."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.commands.documents import Apply
from cluster.errors import BadInput
from deployments.gateway.door.certificates import check_files, utc
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.settings import ClientCertificates
from deployments.observe.traces.settings import RATIO_VARIABLE, URL_VARIABLE, check_can_trace, trace_settings
from deployments.signing.node_policy import POLICY_VARIABLE, policy_file
from deployments.signing.policy import check_policy
from headrace.local.down import Progress
from headrace.local.home import Settings
from headrace.local.network_access import check_network
from headrace.local.options import LOOPBACK, UpOptions
from headrace.local.ports import check_free
from headrace.local.prometheus.servers import check_prometheus
from headrace.local.ray.token import require_token

LOOPBACKS = (LOOPBACK, "localhost")


def check_start(options: UpOptions, settings: Settings, access: Apply | None, progress: Progress, *, broker_runs: bool) -> None:
    """Raises BadInput for options that can't be had here or that would open a door to anybody, Conflict for a port in use, and
    what the store raises. `progress` is told what will go wrong later; `broker_runs`: the broker has its port already."""
    check_prometheus(options)
    _check_traces(options, settings)
    _check_signing(options, settings)
    _check_door(options, settings, progress)
    _check_ports(options, settings, broker_runs=broker_runs)
    check_network(options, settings, access)
    if settings.ray_address is not None and not options.insecure:
        require_token(os.environ, settings.ray_address)


def _check_door(options: UpOptions, settings: Settings, progress: Progress) -> None:
    tls = options.tls
    if tls is not None and usable_haproxy() is None:
        raise BadInput(
            "without HAProxy there is no TLS",
            where="--tls-cert",
            remedy="leave it out, or run where HAProxy can: on Linux, and not with HEADRACE_HAPROXY=0",
        )
    # The files are each node's own, and of a cluster that is joined the door may be on another: its keeper looks at them.
    if tls is not None and settings.ray_address is not None:
        if tls.client_certificates is ClientCertificates.REQUIRED and settings.client_cert is None:
            raise BadInput(
                "our own commands would not be let in",
                where="--client-certs required",
                remedy="set HEADRACE_CLIENT_CERT and HEADRACE_CLIENT_KEY",
            )
    elif tls is not None:
        certificate = check_files(tls)
        if certificate.ends_soon():
            progress("TLS", f"WARNING: the certificate ends at {utc(certificate.ends)}: renew it, it is taken up at once", 0.0)
    if usable_haproxy() is None and (options.most_gateways > 1 or options.host not in LOOPBACKS):
        raise BadInput(
            "without HAProxy there is one gateway, on loopback",
            where=f"--host {options.host} --gateways {options.most_gateways}",
            remedy="leave these options out, or run where HAProxy can: on Linux, and not with HEADRACE_HAPROXY=0",
        )


def _check_traces(options: UpOptions, settings: Settings) -> None:
    if not options.traces:
        return
    check_can_trace()
    if settings.ray_address is not None and trace_settings() is None:
        raise BadInput(
            "the streams of a cluster that is joined are told by its nodes' environment alone",
            where="--traces",
            remedy=f"set {URL_VARIABLE} and {RATIO_VARIABLE} where its nodes are started, and here",
        )


def _check_signing(options: UpOptions, settings: Settings) -> None:
    if not options.signing:
        return
    check_policy(Path(options.signing))
    if settings.ray_address is not None and policy_file() is None:
        raise BadInput(
            "the processes of a cluster that is joined ask their nodes' environment alone",
            where="--signing",
            remedy=f"set {POLICY_VARIABLE} to the policy's path where its nodes are started, and here",
        )


def _check_ports(options: UpOptions, settings: Settings, *, broker_runs: bool) -> None:
    if not options.host or ":" in options.host:
        raise BadInput("the door needs an IPv4 address", where=f"--host {options.host}", remedy="use 127.0.0.1 or 0.0.0.0")
    if settings.ray_address is None:
        check_free(options.host, options.http_port, option="--http-port")
        check_free(options.host, options.grpc_port, option="--grpc-port")
        check_free(LOOPBACK, options.dashboard_port, option="--dashboard-port")
    if options.broker and settings.bootstrap_servers is None and not broker_runs:
        check_free(LOOPBACK, options.broker_port, option="--broker-port")
