"""Ports: whether one is free, and which."""

from __future__ import annotations

import errno
import socket

from cluster.errors import BadInput, Conflict


def check_free(host: str, port: int, *, option: str) -> None:
    """Raises Conflict, naming the port and its option, where something else listens there; BadInput where `host` is not ours."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except socket.gaierror as error:
            raise BadInput(f"{host!r} is not an address", where="--host", remedy="use 127.0.0.1 or 0.0.0.0") from error
        except PermissionError as error:
            raise Conflict(
                f"port {port} needs more rights", where=f"{host}:{port}", remedy=f"choose one above 1023 with {option}"
            ) from error
        except OSError as error:
            if answers(host, port) or error.errno != errno.EADDRNOTAVAIL:
                raise Conflict(
                    f"port {port} is in use", where=f"{host}:{port}", remedy=f"free it, or choose another with {option}"
                ) from error
            raise BadInput("no such address here", where=f"--host {host}", remedy="use 127.0.0.1 or 0.0.0.0") from error


def answers(host: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:6379` as host and port. Raises BadInput."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise BadInput(f"{address!r} is not like host:port", where="address", remedy="write host:port, e.g. 127.0.0.1:6379")
    return host.strip("[]"), int(port)
