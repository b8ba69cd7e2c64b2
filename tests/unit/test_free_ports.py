"""Ports that are found free, and stay so until they are used."""

from __future__ import annotations

import socket

import pytest

from cluster.errors import Conflict
from headrace.local import ports
from headrace.local.ports import free_port


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
