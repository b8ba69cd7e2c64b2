"""Ports that are found free, and stay so until they are used."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from cluster.errors import BadInput, Conflict
from headrace.local import ports
from headrace.local.ports import check_free, free_port


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", free_port()))


def test_one_that_is_held_is_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", free_port()))
        taken = held.getsockname()[1]
        monkeypatch.setattr(ports, "OUR_PORTS", range(taken, taken + 1))
        with pytest.raises(Conflict, match=f"{taken} is free"):
            free_port()


def test_one_that_was_just_given_is_given_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its first user has not bound it yet: a broker's own port was drawn for its controller too, once in ten thousand starts.
    given = free_port()
    monkeypatch.setattr(ports, "OUR_PORTS", range(given, given + 1))
    with pytest.raises(Conflict, match=f"{given} is free"):
        free_port()
    draw = f"from headrace.local import ports; ports.OUR_PORTS = range({given}, {given + 1}); ports.free_port()"
    other = subprocess.run([sys.executable, "-c", draw], capture_output=True, text=True, check=False)
    assert "Conflict" in other.stderr


def test_an_address_of_another_machine_is_told_from_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "answers", lambda *_: True)  # as where that machine, or a proxy on the way, takes connections
    with pytest.raises(BadInput, match=r"--host: 203\.0\.113\.1 is no address of this machine \(use 127\.0\.0\.1 or"):
        check_free("203.0.113.1", free_port(), option="--http-port")
    with socket.socket() as held:
        held.bind(("127.0.0.1", free_port()))
        held.listen()
        with pytest.raises(Conflict, match=r"is in use .*--http-port"):
            check_free("127.0.0.1", held.getsockname()[1], option="--http-port")


def test_an_address_at_which_nothing_can_listen_is_no_port_in_use() -> None:
    # Of a link, and no link named; or of a protocol that this machine does not speak.
    with pytest.raises(BadInput, match=r"--host: nothing can listen at fe80::1: .* \(use 127\.0\.0\.1 or"):
        check_free("fe80::1", free_port(), option="--http-port")
