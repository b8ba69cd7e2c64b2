"""What of HAProxy listens where, and whether two homes stay out of each other's way."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from cluster.errors import Unreachable
from deployments.gateway.deployment import APP
from deployments.gateway.http.direct_lane import middlewares
from headrace.local.haproxy import SERVE_ENVIRONMENT, haproxy_environment, haproxy_threads, launcher_script, replica_ports
from tests.support.broken_haproxy import broken_haproxy


def launched(folder: Path, config: str) -> str:
    """The configuration that HAProxy would read."""
    file, launcher = folder / "haproxy.cfg", folder / "launcher"
    file.write_text(config, encoding="utf-8")
    launcher.write_text(launcher_script(Path("/bin/echo"), folder / "503.http"), encoding="utf-8")
    launcher.chmod(0o700)
    done = subprocess.run([str(launcher), "-db", "-f", str(file), "-dR"], capture_output=True, text=True, check=True)
    assert done.stdout == f"-db -f {file} -dR\n"
    return file.read_text(encoding="utf-8")


def test_only_the_front_door_may_listen_beyond_loopback(tmp_path: Path) -> None:
    config = launched(tmp_path, HAPROXY_CONFIG_TEMPLATE)
    binds = re.findall(r"^ *bind (.*)$", config, re.MULTILINE)
    assert len(binds) == 4
    assert [bind for bind in binds if not bind.startswith("127.0.0.1:")] == [
        "{{ config.frontend_host }}:{{ config.frontend_port }}",
        "{{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} proto h2",
    ]
    assert "mode 600 level admin" in config
    assert "666" not in config
    assert launched(tmp_path, config) == config


def test_a_request_that_a_dead_gateway_left_is_sent_to_another_but_no_command(tmp_path: Path) -> None:
    config = launched(
        tmp_path, f"defaults\n    retry-on conn-failure\nbackend http-{APP}\n    http-reuse always\nbackend http-other\n"
    )
    assert config.splitlines() == [
        "defaults",
        "    retry-on conn-failure",
        "backend http-gateway",
        "    option http-buffer-request",
        "    retry-on conn-failure empty-response",
        "    http-request disable-l7-retry if { path_beg /control/ }",
        "    http-response deny deny_status 503 if { status 404 } { res.hdr(content-type) -m beg text/ }",
        *(f"    errorfile {status} {tmp_path}/503.http" for status in (502, 503, 504)),
        "    http-reuse always",
        "backend http-other",
    ]
    assert launched(tmp_path, config) == config


def test_where_no_gateway_is_callers_are_told_to_come_again(tmp_path: Path) -> None:
    config = launched(tmp_path, HAPROXY_CONFIG_TEMPLATE)
    backend = config.partition("\nbackend default_backend\n")[2].splitlines()
    assert backend[:2] == [f"    errorfile 503 {tmp_path}/503.http", "    http-request deny deny_status 503"]
    assert "status 404" not in config


def test_where_no_replica_is_left_callers_read_the_protocols_error(tmp_path: Path) -> None:
    haproxy_environment(tmp_path)
    head, body = (tmp_path / "503.http").read_bytes().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head
    assert f"content-length: {len(body)}".encode() in head
    assert list(json.loads(body)) == ["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="Ray brings HAProxy on Linux alone")
@pytest.mark.parametrize("program", [None, b"", b"\x7fELF of another machine", b"#!/bin/sh\nexit 127\n"], ids=repr)
def test_where_haproxy_cant_run_up_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes | None
) -> None:
    broken_haproxy(monkeypatch, tmp_path / "packages", program)
    with pytest.raises(Unreachable, match="can't run here") as refused:
        haproxy_environment(tmp_path)
    assert "RAY_SERVE_ENABLE_HA_PROXY=0" in str(refused.value.remedy)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert haproxy_environment(tmp_path) == {}


def test_two_homes_share_no_file(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one, two = (haproxy_environment(folder) for folder in folders)
    assert one.keys() == two.keys()
    assert all(value.isdigit() or Path(value).is_relative_to(folders[0]) for value in one.values())
    assert all(value.isdigit() or Path(value).is_relative_to(folders[1]) for value in two.values())


def test_haproxy_leaves_cores_to_those_who_score() -> None:
    assert [haproxy_threads(cores) for cores in (1, 2, 3, 4, 8, 64)] == [1, 1, 1, 2, 4, 4]


def test_nobody_reads_a_line_for_each_request() -> None:
    """Serve's name for it may change: then HAProxy would log each request again, unseen."""
    environment = {**os.environ, **SERVE_ENVIRONMENT}
    look = "from ray.serve._private.haproxy import HAProxyConfig; print(HAProxyConfig().metrics_enabled)"
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_replicas_of_two_homes_take_other_ports_below_those_of_the_kernel() -> None:
    one, two = replica_ports(Path("/headrace-1")), replica_ports(Path("/headrace-2"))
    assert not set(one) & set(two)
    assert 20_000 <= min(*one, *two) <= max(*one, *two) < 32_768


def test_serve_finds_the_way_past_itself_by_name() -> None:
    module, name = SERVE_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].rsplit(".", 1)
    assert getattr(importlib.import_module(module), name) is middlewares
