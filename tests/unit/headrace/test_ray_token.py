"""Ray's token: made once, this user's alone, and never without where a cluster is joined."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from cluster.errors import BadInput, Conflict
from headrace.local.home import Home
from headrace.local.ray.dashboard import DashboardAsker
from headrace.local.ray.head import ray_environment
from headrace.local.ray.token import (
    ensure_token,
    joined_environment,
    joined_token,
    own_environment,
    read_token,
    require_token,
    set_variables,
)


def test_it_is_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    ensure_token(file)
    first = read_token(file)
    assert len(first) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    ensure_token(file)
    assert read_token(file) == first


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_one_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    ensure_token(file)
    file.chmod(mode)
    with pytest.raises(Conflict, match="others than this user") as refused:
        ensure_token(file)
    assert str(file) in str(refused.value)


def test_an_empty_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    with pytest.raises(Conflict, match="empty"):
        ensure_token(file)


def test_a_home_is_closed_to_others(tmp_path: Path) -> None:
    open_to_all = tmp_path / "home"
    open_to_all.mkdir(mode=0o755)
    Home(open_to_all).make()
    assert open_to_all.stat().st_mode & 0o777 == 0o700


def test_a_ray_of_our_own_takes_the_homes_token_whatever_the_user_has_set(tmp_path: Path) -> None:
    home = Home(tmp_path)
    theirs = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "x", "RAY_AUTH_TOKEN_PATH": "/x", "RAY_USAGE_STATS_ENABLED": "1"}
    # A run of a version without tokens is still to be reached.
    assert own_environment(home.ray_token)["RAY_AUTH_MODE"] == "disabled"
    ensure_token(home.ray_token)
    variables = ray_environment(theirs, home)
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_AUTH_TOKEN"] is None
    assert variables["RAY_AUTH_TOKEN_PATH"] == str(home.ray_token)
    assert variables["RAY_USAGE_STATS_ENABLED"] == "1"


@pytest.mark.parametrize(("status", "refused"), [(401, True), (403, True), (500, False)])
def test_a_dashboard_that_wants_another_token_is_told_from_one_that_is_ill(tmp_path: Path, status: int, refused: bool) -> None:
    home, seen = Home(tmp_path), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    ensure_token(home.ray_token)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        dashboard = DashboardAsker(f"http://127.0.0.1:{server.server_port}", home, owns_ray=True)
        with pytest.raises(httpx.HTTPStatusError):
            dashboard.get("/api/v0/nodes")
    assert seen == [f"Bearer {read_token(home.ray_token)}"]
    assert dashboard.token_refused is refused


def test_variables_are_set_and_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "y")
    set_variables({"RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": "z"})
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == "z"  # noqa: S105 (a file)


def test_a_cluster_is_joined_with_the_token_that_ray_would_find(tmp_path: Path) -> None:
    named, default = tmp_path / "named", tmp_path / ".ray" / "auth_token"
    default.parent.mkdir()
    default.write_text("default\n")
    named.write_text("named")
    everything = {"RAY_AUTH_TOKEN": "said", "RAY_AUTH_TOKEN_PATH": str(named), "HOME": str(tmp_path)}
    assert joined_token(everything) == "said"
    assert joined_token(everything | {"RAY_AUTH_TOKEN": " "}) == "named"
    assert joined_token({"HOME": str(tmp_path)}) == "default"
    assert joined_environment(everything) == {"RAY_AUTH_MODE": "token"}
    require_token(everything, "head:6379")


@pytest.mark.parametrize(
    "environment", [{}, {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": ""}, {"RAY_AUTH_TOKEN_PATH": "/is/not/there"}]
)
def test_one_without_a_token_is_not_joined_by_mistake(environment: dict[str, str]) -> None:
    assert joined_environment(environment) == {}
    with pytest.raises(BadInput, match="there is no token") as refused:
        require_token(environment, "head:6379")
    assert "--insecure" in str(refused.value)
    assert "head:6379" in str(refused.value)
