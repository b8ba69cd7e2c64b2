"""Whether HAProxy can be used here, and what becomes of a start where it can't."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.errors import BadInput, Unreachable
from deployments.gateway.door.haproxy import VARIABLE, usable_haproxy
from headrace.local.home import read_settings
from headrace.local.run_state import load_run
from headrace.local.up import UpOptions, bring_up
from tests.support.broken_haproxy import broken_haproxy
from tests.support.certificates import Pki

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray brings HAProxy on Linux alone")


def silent(step: str, detail: str, seconds: float) -> None:
    """See `Progress`."""


@pytest.mark.parametrize("program", [None, b"", b"\x7fELF of another machine", b"#!/bin/sh\nexit 127\n"], ids=repr)
def test_where_haproxy_cant_run_up_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes | None
) -> None:
    broken_haproxy(monkeypatch, tmp_path / "packages", program)
    with pytest.raises(Unreachable, match="can't run here") as refused:
        usable_haproxy()
    assert "HEADRACE_HAPROXY=0" in str(refused.value.remedy)
    settings = read_settings({"HEADRACE_HOME": str(tmp_path / "home")})
    with pytest.raises(Unreachable, match="can't run here"):
        bring_up(UpOptions(), settings, silent)
    assert load_run(settings.home) is None
    monkeypatch.setenv(VARIABLE, "0")
    assert usable_haproxy() is None


@pytest.mark.parametrize(
    "options",
    [UpOptions(host="0.0.0.0"), UpOptions(gateways=2, most_gateways=2), UpOptions(most_gateways=2)],  # noqa: S104 (not bound)
)
def test_without_haproxy_there_is_one_gateway_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: UpOptions
) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    settings = read_settings({"HEADRACE_HOME": str(tmp_path / "home")})
    with pytest.raises(BadInput, match="one gateway, on loopback"):
        bring_up(options, settings, silent)
    assert load_run(settings.home) is None


def test_without_haproxy_there_is_no_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    certificate, key = Pki(tmp_path).issue("door")
    settings = read_settings({"HEADRACE_HOME": str(tmp_path / "home")})
    with pytest.raises(BadInput, match="without HAProxy there is no TLS"):
        bring_up(UpOptions(tls_cert=str(certificate), tls_key=str(key)), settings, silent)
    assert load_run(settings.home) is None
