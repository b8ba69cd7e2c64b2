"""HAProxy's configuration: wholly ours, and a pure function of settings.

`infer` and its like are the way of a request; each way has backends of its own, whose servers are the gateways' slots:

    WAY         two gateways or more are up: one is asked, and another where the first ends before it answers
    WAY_last    one or none is up: it is asked, else the keeper, which holds the request until one is up
    WAY_again   what the keeper held: one gateway is asked, once

So no request reaches more than two gateways, whatever becomes of them. Commands and streams reach one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deployments.gateway.door.settings import CAME, DoorSettings, DoorTls

INFERENCE_SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"

HELD, AGAIN, ADMIN = "keeper.sock", "again.sock", "admin.sock"
# With TLS, where this machine's own commands come in: who can open the socket is this user, and needs no certificate to show it.
LOCAL = "local.sock"
CERTIFICATE, CLIENT_CA = "certificate.pem", "client-ca.pem"  # as HAProxy reads them: the first holds the key too
PEER = "x-headrace-peer"  # a caller's certificate (DER, base64) that one of the client CA's is; the door alone sets it
# On AGAIN: 200 while a gateway is up, and with a slot's number behind it, while that one is.
UP_PATH = "/headrace-door-up/"
ALIVE_PATH = "/-/healthz"

# On answers of the door itself: no gateway has got the request.
NOT_DELIVERED = "x-headrace-not-delivered"
CHECKED = "infer"  # the way whose backend checks the slots; the others follow
# The path of `infer`, also with a version.
_INFER = r"^/v2/models/[^/]+(/versions/[^/]+)?/infer$"
# What got no answer is handed on once.
_HANDED_ON = ("retries 1", "option redispatch 1", "retry-on conn-failure empty-response")
# What HAProxy needs of a buffer beside a body: its head, and how it notes headers and pieces.
BESIDE_BYTES = 16 << 10


class Way(StrEnum):
    """Which of a gateway's three servers answers. Its value is the ending of the socket's name."""

    INFER = "infer"
    HTTP = "http"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Listening:
    """The sockets that HAProxy inherits, by their numbers, and how many connections this process may have."""

    http: int
    grpc: int | None
    connections_most: int


_COMMON = """\
global
    nbthread {threads}
    maxconn {connections}
    no strict-limits
    server-state-file {folder}/{state}
    stats socket unix@{folder}/{admin} mode 600 level admin
    tune.bufsize {buffer}
    tune.http.maxhdr 256
    tune.h2.fe.max-concurrent-streams {streams}
    tune.h2.be.max-concurrent-streams {streams}
    tune.h2.fe.initial-window-size 1048576
    tune.h2.be.initial-window-size 1048576
{tls}
defaults
    mode http
    load-server-state-from-file global
    maxconn {connections}
    timeout connect 5s
    timeout check 3s
    timeout http-request {held}s
    timeout http-keep-alive 10m
    timeout client 60s
    timeout server 20d
    timeout queue 60s
    option clitcpka
    option http-keep-alive
    http-reuse always
"""
_TLS = """\
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20
"""
STATE = "slots.state"

GRPC_UNAVAILABLE = 14

# By status: what HAProxy says where no gateway has had a say.
ERRORS = {
    400: "this can't be read: it is not HTTP, or its head has more than {head} bytes",
    403: "this is not allowed here",
    405: "this method is not possible here",
    408: "the request came too slowly: {least} bytes a second are the least",
    413: "the request is too large",
    429: "too many requests",
    500: "the door could not pass this on",
    502: "the gateway ended before it answered (it may have done what was asked)",
    503: "gateway: no replica answers now (retry; one is started if the last has died)",
    504: "the gateway did not answer in time",
}


def configuration(settings: DoorSettings, folder: Path, listening: Listening) -> str:
    """The whole file, for sockets in `folder`."""
    sections = [
        _COMMON.format(
            threads=settings.threads,
            connections=listening.connections_most,
            folder=folder,
            state=STATE,
            admin=ADMIN,
            buffer=settings.handed_on_bytes + BESIDE_BYTES,
            streams=settings.concurrent_streams,
            held=_seconds(settings.handed_on_bytes + settings.head_bytes, settings),
            tls=_tls(settings.tls),
        ),
        _section("backend addresses", [_table("conn_cur")]),
        _section("backend answered", [_table("conn_cur")]),
        _section("frontend http", _http_frontend(settings, folder, listening.http)),
    ]
    if settings.tls is not None:
        sections.append(_section("frontend local", _local_frontend(settings, folder)))
    if listening.grpc is not None:
        sections.append(_section("frontend grpc", _grpc_frontend(settings, folder, listening.grpc)))
    sections.append(_section("frontend again", _again_frontend(settings, folder)))
    for way in Way:
        sections += [
            _section(f"backend {way}", _several(settings, folder, way)),
            _section(f"backend {way}_last", _last(settings, folder, way)),
            _section(f"backend {way}_again", _once(settings, folder, way)),
        ]
    sections.append(_section("backend commands", _once(settings, folder, Way.HTTP)))
    sections.append(_section("backend grpc_streams", _once(settings, folder, Way.GRPC)))
    return "\n".join(sections)


def _tls(tls: DoorTls | None) -> str:
    if tls is None:
        return ""
    return _TLS if tls.client_ca is None else f"{_TLS}    tune.ssl.cachesize 0\n"


def slots_state(settings: DoorSettings, taken: Iterable[int]) -> str:
    """Which slots are up as HAProxy starts, in the form of its state file: it would take all for up until it has checked them."""
    held = set(taken)
    lines = [
        f"1 {CHECKED} {number} s{number} - {2 if number in held else 0} 0 1 1 0 6 {3 if number in held else 2} "
        f"{1 if number in held else 0} 6 0 0 0 - 0 - 0 0 - - 0"
        for number in range(1, settings.slots + 1)
    ]
    return "\n".join(["1", "# be_id be_name srv_id srv_name ...", *lines, ""])


def _seconds(size: int, settings: DoorSettings) -> int:
    return math.ceil(size / settings.least_bytes_per_s)


def _section(name: str, lines: Iterable[str]) -> str:
    return f"{name}\n{_lines(lines)}"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)


def _json(text: str) -> str:
    document = json.dumps({"error": text}).replace("'", r"'\''")
    return f"content-type application/json string '{document}'"


def _errors(settings: DoorSettings, but: Collection[int] = ()) -> Iterator[str]:
    for status, text in ERRORS.items():
        if status in but:
            continue
        said = text.format(head=settings.handed_on_bytes, least=settings.least_bytes_per_s)
        retry = f" hdr retry-after 1 hdr {NOT_DELIVERED} 1" if status == 503 else ""
        yield f"http-error status {status} {_json(said)}{retry}"


def _table(stored: str) -> str:
    return f"stick-table type ipv6 size 100k expire 10m store {stored}"


def _bind(settings: DoorSettings, folder: Path, listening: int, protocols: str) -> str:
    tls = settings.tls
    if tls is None:
        return f"bind fd@{listening}"
    line = f"bind fd@{listening} ssl crt {folder}/{CERTIFICATE} alpn {protocols}"
    if tls.client_ca is None:
        return line
    # A caller whose connection is resumed is not verified again, and so would outlive his authority.
    return f"{line} ca-file {folder}/{CLIENT_CA} verify {tls.client_certificates} no-tls-tickets"


def _arrivals(settings: DoorSettings) -> list[str]:
    """Who may come in, and what is known of him. A connection counts against its address while no answer is owed on it."""
    return [
        "acl loopback src 127.0.0.0/8 ::1",
        "tcp-request connection track-sc0 src table addresses if !loopback",
        "tcp-request connection set-var(sess.answered) src_conn_cur(answered)",
        f"tcp-request connection reject if !loopback {{ sc0_conn_cur,sub(sess.answered) gt {settings.unanswered_most} }}",
        # Servers that read the first and servers that read the last would see two callers.
        f"""http-request return status 400 {_json("Authorization stands there twice: send it once")} """
        "if { req.fhdr_cnt(authorization) gt 1 }",
        *_heads(settings, "%[src]"),
        *_peer(settings),
    ]


def _heads(settings: DoorSettings, address: str) -> list[str]:
    """What of a head goes on: nothing that the door alone may say, but for the caller's address."""
    return [
        f"""http-request return status 431 {_json(f"the path and headers have more than {settings.head_bytes} bytes")} """
        f"if {{ req.hdrs,length gt {settings.head_bytes} }}",
        "http-request del-header forwarded",
        "http-request del-header x-headrace- -m beg",
        f"http-request set-header x-forwarded-for {address}",
        f"http-request set-header {CAME} %[date(0,us)] if {{ req.fhdr(traceparent) -m end -- -01 }}",
    ]


def _peer(settings: DoorSettings) -> list[str]:
    """What TLS tells of the caller."""
    if settings.tls is None:
        return []
    told = ["http-request set-header x-forwarded-proto https"]
    if settings.tls.client_ca is not None:
        told.append(f"http-request set-header {PEER} %[ssl_c_der,base64] if {{ ssl_c_used }} {{ ssl_c_verify 0 }}")
    return told


def _wait(settings: DoorSettings, condition: str) -> str:
    """Requests that HAProxy is to hold whole, as far as they fit."""
    return f"http-request wait-for-body time {_seconds(settings.handed_on_bytes, settings)}s if {condition}"


def _whole(settings: DoorSettings, condition: str) -> list[str]:
    """What is held whole: from then on an answer is owed."""
    return [_wait(settings, condition), "http-request track-sc1 src table answered if !loopback"]


def _http_frontend(settings: DoorSettings, folder: Path, listening: int) -> list[str]:
    return [
        _bind(settings, folder, listening, "h2,http/1.1"),
        *_errors(settings),
        *_arrivals(settings),
        *_whole(settings, "TRUE"),
        *_http_routes(),
    ]


def _local_frontend(settings: DoorSettings, folder: Path) -> list[str]:
    return [
        f"bind unix@{folder}/{LOCAL} mode 600",
        *_errors(settings),
        *_heads(settings, "127.0.0.1"),
        _wait(settings, "TRUE"),
        *_http_routes(),
    ]


def _http_routes() -> list[str]:
    return [
        f"acl infer path -m reg {_INFER}",
        r"acl scores path -m reg ^/v[12]/.*(/infer|:predict|[/:]explain|/repository/index)$",
        "acl reads method GET HEAD OPTIONS",
        # Who asks how we are wants to know it now.
        f"use_backend commands if {{ path_beg /v2/health/ }} {{ nbsrv({CHECKED}) eq 0 }}",
        *_routed(Way.INFER, "infer METH_POST"),
        *_routed(Way.HTTP, "reads", "scores METH_POST"),
        "default_backend commands",
    ]


def _grpc_frontend(settings: DoorSettings, folder: Path, listening: int) -> list[str]:
    return [
        _bind(settings, folder, listening, "h2"),
        # Calls may be as long as their deadlines, and streams as their callers like: who goes without a word is found by TCP.
        "timeout client 20d",
        "timeout http-keep-alive 20d",
        *_arrivals(settings),
        *_errors(settings, but=(502, 503, 504)),
        *_grpc_errors(),
        f"http-request return status 405 {_json('only gRPC is served on this port (HTTP is on the other)')} if !METH_POST",
        f"acl infer path /{INFERENCE_SERVICE}/ModelInfer",
        "acl compressed req.hdr(grpc-encoding) -m found",
        f"acl unary path_beg /{INFERENCE_SERVICE}/",
        f"acl unary path /{HEALTH_SERVICE}/Check",
        f"acl streams path /{INFERENCE_SERVICE}/ModelStreamInfer",
        f"acl health path /{HEALTH_SERVICE}/Check /{INFERENCE_SERVICE}/ServerLive /{INFERENCE_SERVICE}/ServerReady",
        *_whole(settings, "unary !streams"),
        f"use_backend grpc_streams if health {{ nbsrv({CHECKED}) eq 0 }}",
        *_routed(Way.INFER, "infer !compressed"),
        *_routed(Way.GRPC, "unary !streams"),
        "default_backend grpc_streams",
    ]


def _grpc_errors() -> Iterator[str]:
    """What clients of gRPC read in place of a status of HTTP: where it is there, no body may be."""
    for status in (502, 503, 504):
        yield f'http-error status {status} hdr grpc-status {GRPC_UNAVAILABLE} hdr grpc-message "{ERRORS[status]}"'


def _routed(way: Way, *conditions: str) -> Iterator[str]:
    for condition in conditions:
        yield f"use_backend {way}_last if {condition} {{ nbsrv({CHECKED}) lt 2 }}"
        yield f"use_backend {way} if {condition}"


def _again_frontend(settings: DoorSettings, folder: Path) -> list[str]:
    return [
        f"bind unix@{folder}/{AGAIN} mode 600",
        *_errors(settings),
        "timeout client 20d",
        "option httpclose",
        f"http-request return status 200 if {{ path {UP_PATH} }} {{ nbsrv({CHECKED}) gt 0 }}",
        *(
            f"http-request return status 200 if {{ path {UP_PATH}{number} }} {{ srv_is_up({CHECKED}/s{number}) }}"
            for number in range(1, settings.slots + 1)
        ),
        f"http-request return status 503 if {{ path_beg {UP_PATH} }}",
        f"acl grpc path_beg /{INFERENCE_SERVICE}/ /{HEALTH_SERVICE}/",
        f"use_backend {Way.INFER}_again if {{ path /{INFERENCE_SERVICE}/ModelInfer }} !{{ req.hdr(grpc-encoding) -m found }}",
        f"use_backend {Way.INFER}_again if METH_POST {{ path -m reg {_INFER} }}",
        f"use_backend {Way.GRPC}_again if grpc",
        f"default_backend {Way.HTTP}_again",
    ]


def _several(settings: DoorSettings, folder: Path, way: Way) -> list[str]:
    checked = way == CHECKED
    return [
        "balance leastconn",
        *_abort(way),
        *_HANDED_ON,
        *([f"option httpchk GET {ALIVE_PATH}"] if checked else []),
        *_slots(settings, folder, way, tracking=not checked),
    ]


def _last(settings: DoorSettings, folder: Path, way: Way) -> list[str]:
    return [
        # Not `backup`: of this order the one that has failed is left out, whether or not it is known to have ended.
        "balance first",
        *_abort(way),
        *_HANDED_ON,
        *_slots(settings, folder, way),
        f"server keeper unix@{folder}/{HELD} max-reuse 0 pool-max-conn 0",
    ]


def _once(settings: DoorSettings, folder: Path, way: Way) -> list[str]:
    """Never sent again once a gateway may have it; so on a connection that is new, which none has just closed."""
    return [
        "balance leastconn",
        *_abort(way),
        "http-reuse never",
        "retries 2",
        "option redispatch 1",
        "retry-on conn-failure",
        *_slots(settings, folder, way),
    ]


def _abort(way: Way) -> list[str]:
    # A caller that closes its side is one that hung up, whose work ends. Of a page or a question it may be one that has said all.
    return [] if way is Way.HTTP else ["option abortonclose"]


def _slots(settings: DoorSettings, folder: Path, way: Way, *, tracking: bool = True) -> Iterator[str]:
    for number in range(1, settings.slots + 1):
        address = f"unix@{folder}/{number}.{way}"
        spoken = " proto h2" if way is Way.GRPC else ""
        yield f"server s{number} {address}{spoken} " + (f"track {CHECKED}/s{number}" if tracking else _CHECK)


# As soon as one is refused it is down, and comes up with the first check that succeeds. One that is slow to answer is only busy.
_CHECK = "check inter 1s fastinter 100ms downinter 200ms rise 1 fall 3 observe layer4 error-limit 1 on-error mark-down"
