"""Ports: whether one is free, and which."""

from __future__ import annotations

import errno
import random
import socket
from collections import deque

from cluster.errors import BadInput, Conflict

# Above those of Ray's workers (10002 to 19999), below those of Serve's replicas (from 30000) and of outgoing connections (on
# Linux from 32768): a start makes hundreds of connections, and one may be given the port that was found free seconds before.
OUR_PORTS = range(20_000, 30_000)
TRIES = 100
# A port is drawn seconds before it is used: until then its number is held as a UDP port, which is in nobody's way and tells all
# processes of this machine (and this one) to draw another. The last ones only, by a process: by then the first are in use.
_held: deque[socket.socket] = deque(maxlen=64)


def check_free(host: str, port: int, *, option: str) -> None:
    """Raises Conflict, naming the port and its option, where something else listens there; BadInput where `host` is not ours."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except PermissionError as error:
        raise Conflict(
            f"port {port} needs more rights", where=f"{host}:{port}", remedy=f"choose one above 1023 with {option}"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} is in use", where=f"{host}:{port}", remedy=f"free it, or choose another with {option}"
            ) from error
        raise BadInput(_why_not(host, error), where="--host", remedy="use 127.0.0.1 or 0.0.0.0") from error


def _why_not(host: str, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"{host!r} is not an address"
    if error.errno == errno.EADDRNOTAVAIL:  # whoever answers there is another machine, or a proxy on the way
        return f"{host} is no address of this machine"
    return f"nothing can listen at {host}: {error}"


def answers(host: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, of those that no connection is given as its own end meanwhile, and that no other call,
    of whichever process, was given just now. Raises Conflict."""
    draw = random.SystemRandom()  # another process must not try the same ones
    for _ in range(TRIES):
        port = draw.choice(OUR_PORTS)
        hold = socket.socket(type=socket.SOCK_DGRAM)
        try:
            hold.bind((host, port))
            with socket.socket() as probe:
                probe.bind((host, port))
        except OSError:
            hold.close()
            continue
        _held.append(hold)
        return port
    raise Conflict(f"no port from {OUR_PORTS[0]} to {OUR_PORTS[-1]} is free", where=host, remedy="end what holds them")


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:6379` as host and port. Raises BadInput."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise BadInput(f"{address!r} is not like host:port", where="address", remedy="write host:port, e.g. 127.0.0.1:6379")
    return host.strip("[]"), int(port)
