"""How many gateways there are, where, and what Serve is told of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.errors import BadInput
from deployments.gateway.autoscale import CALM_S, REQUESTS, REQUESTS_A_GATEWAY, FollowRequests, gateways_for
from deployments.gateway.deployment import (
    Gateway,
    GatewaySettings,
    door_settings,
    gateway_application,
    haproxy_threads,
    slots_for,
)
from deployments.gateway.door.settings import ClientCertificates, DoorTls
from deployments.gateway.server import GatewayServer
from headrace.cli.local import gateway_bounds


@dataclass
class Context:
    """What Serve tells a policy."""

    counts: dict[str, float]
    target_num_replicas: int
    current_time: float = 0.0
    policy_state: dict[str, Any] = field(default_factory=dict)

    @property
    def aggregated_metrics(self) -> dict[str, dict[str, float]]:
        return {REQUESTS: self.counts} if self.counts else {}


def follow(counts: dict[str, float], current: int, now_s: float, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    policy = FollowRequests(least=1, most=4, calm_s=CALM_S)
    return policy(cast(Any, Context(counts, current, now_s, state)))


def test_gateways_follow_the_requests_that_they_count_up_at_once_and_down_after_a_while() -> None:
    assert follow({}, 2, 0.0, {}) == (2, {})  # none has told anything yet
    target, state = follow({"a": 1.5 * REQUESTS_A_GATEWAY}, 1, 0.0, {})
    assert target == 2
    target, state = follow({"a": 1.0, "b": 0.0}, 2, 10.0, state)
    assert (target, state) == (2, {"calm": 10.0})
    target, state = follow({"a": 1.0, "b": 0.0}, 2, 9.0 + CALM_S, state)
    assert target == 2
    target, state = follow({"a": 1.0, "b": 0.0}, 2, 10.0 + CALM_S, state)
    assert (target, state) == (1, {"calm": None})


@pytest.mark.parametrize(("requests", "gateways"), [(0, 2), (64, 2), (129, 3), (1e9, 5)])
def test_one_gateway_for_so_many_requests_within_the_bounds(requests: float, gateways: int) -> None:
    assert gateways_for(requests, 2, 5) == gateways


def test_serve_scales_only_where_there_are_two_bounds() -> None:
    fixed = gateway_application(GatewaySettings(replicas=2))._bound_deployment
    assert (fixed.num_replicas, fixed._deployment_config.autoscaling_config) == (2, None)
    same = gateway_application(GatewaySettings(replicas=2, most=2))._bound_deployment
    assert same._deployment_config.autoscaling_config is None
    scaled = gateway_application(GatewaySettings(replicas=2, most=6))._bound_deployment._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas) == (2, 6)


def test_gateways_keep_to_the_node_whose_address_the_door_has() -> None:
    anywhere = gateway_application(GatewaySettings())._bound_deployment
    assert anywhere.ray_actor_options["num_cpus"] == 0  # so that a full node, or a head without CPUs, has one all the same
    assert not anywhere.ray_actor_options.get("resources")
    there = gateway_application(GatewaySettings(node="10.0.0.7"))._bound_deployment
    assert list(there.ray_actor_options["resources"]) == ["node:10.0.0.7"]


def test_a_node_has_places_for_all_gateways_and_for_those_that_replace_them() -> None:
    assert [slots_for(gateways) for gateways in (1, 2, 8)] == [4, 4, 16]
    assert door_settings(GatewaySettings(replicas=2, most=8), "haproxy").slots == 16


def test_haproxy_leaves_cores_to_those_who_score() -> None:
    assert [haproxy_threads(cores) for cores in (1, 2, 3, 4, 8, 64)] == [1, 1, 1, 2, 4, 4]


@pytest.mark.parametrize(("text", "bounds"), [("1", (1, 1)), ("3", (3, 3)), ("1:4", (1, 4)), ("64:64", (64, 64))])
def test_bounds_are_one_number_or_two(text: str, bounds: tuple[int, int]) -> None:
    assert gateway_bounds(text) == bounds


@pytest.mark.parametrize("text", ["", "0", "-1", "1:", ":2", "3:2", "1:65", "1:2:3", "many", "1.5", "９９９９９９９９９９"])
def test_other_bounds_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no number of gateways"):
        gateway_bounds(text)


def test_serve_remembers_where_callers_come_in_and_of_no_tls_as_versions_before_it() -> None:
    assert GatewaySettings().door == {"host": "127.0.0.1", "http_port": 8000, "grpc_port": None}
    tls = DoorTls("/door.pem", "/door.key", "/ca.pem", ClientCertificates.REQUIRED)
    door = GatewaySettings(tls=tls).door
    assert door["tls"] == {
        "certificate": "/door.pem",
        "key": "/door.key",
        "client_ca": "/ca.pem",
        "client_certificates": "required",
    }
    assert json.loads(json.dumps(door)) == door
    assert GatewaySettings(tls=replace(tls, key="/other.key")).door != door
    assert door_settings(GatewaySettings(tls=tls), "haproxy").tls == tls


def test_at_the_end_each_part_is_closed_whatever_becomes_of_those_before_it() -> None:
    closed: list[str] = []

    def part(name: str) -> Any:
        async def fails(*_: float) -> None:
            closed.append(name)
            raise RuntimeError(f"{name} fails")

        return SimpleNamespace(stop=fails, leave=fails, close=fails)

    tracer = SimpleNamespace(close=lambda: closed.append("tracer"))
    gateway = SimpleNamespace(_server=part("server"), _door=part("door"), _tracer=tracer, _scorer=part("scorer"))
    with pytest.raises(RuntimeError):
        asyncio.run(Gateway._close(cast(Any, gateway)))
    assert closed == ["server", "door", "tracer", "scorer"]


def test_of_a_gateways_servers_each_ends_whatever_becomes_of_the_others() -> None:
    ended: list[str] = []

    def server(name: str) -> Any:
        async def stop(_: float) -> None:
            if name == "infer":
                raise RuntimeError("it fails")
            await asyncio.sleep(0)  # what is under way is answered first
            ended.append(name)

        return SimpleNamespace(stop=stop)

    async def close() -> None:
        ended.append("guard")

    parts = {f"_{name}": server(name) for name in ("infer", "grpc", "http")}
    large = SimpleNamespace(close=lambda: ended.append("large"))
    with pytest.raises(RuntimeError, match="it fails"):
        asyncio.run(
            GatewayServer._stop(cast(Any, SimpleNamespace(**parts, _large=large, _guard=SimpleNamespace(close=close))), 1.0)
        )
    assert sorted(ended) == ["grpc", "guard", "http", "large"]
