"""Asks each node of the Ray that this process has joined, by a task there. Imports Ray: import it inside `joined_ray` only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from headrace.doctor import on_node
from headrace.doctor.seen import ClockSeen, MachineSeen, MemberSeen

ANSWER_S = 60.0  # a worker may have to start, and imports take long on a busy machine
CLOCK_S = 10.0
CLOCK_TRIES = 3
NEIGHBOURS = 8  # with each asking all others, 200 nodes would make 40,000 connections
HEAD = "node:__internal_head__"
SHARE_OF_PORTS = {"raylet": "NodeManagerPort", "object manager": "ObjectManagerPort"}


def ask_nodes(
    variables: Sequence[str], disks: Sequence[str], paths: Sequence[str], brokers: Sequence[str], ports: Sequence[int]
) -> tuple[MemberSeen, ...]:
    """Every node that Ray believes alive: see `on_node.machine`. Each connects to the head and to the nodes after it."""
    ray.cloudpickle.register_pickle_by_value(on_node)  # type: ignore[no-untyped-call]  # a node may have another Headrace, or none
    try:
        members = in_order(ray.nodes())  # type: ignore[no-untyped-call]
        here = ray.get_runtime_context().get_node_id()
        asked = [
            (variables, disks_for(member, disks, here), paths, (*addresses_for(at, members), *brokers), ports)
            for at, member in enumerate(members)
        ]
        pending = [_on(member, on_node.machine, *words) for member, words in zip(members, asked, strict=True)]
        ray.wait(pending, num_returns=len(pending), timeout=ANSWER_S)
        return tuple(_answered(member, each) for member, each in zip(members, pending, strict=True))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(on_node)  # type: ignore[no-untyped-call]


def in_order(rows: Sequence[dict[str, Any]]) -> tuple[MemberSeen, ...]:
    """What Ray says of the nodes that live, the head first. Pure."""
    alive = [row for row in rows if row["Alive"]]
    members = [
        MemberSeen(
            id=str(row["NodeID"]),
            address=str(row["NodeManagerAddress"]),
            is_head=HEAD in row["Resources"],
            gpus=float(row["Resources"].get("GPU", 0.0)),
            object_store_bytes=int(row["Resources"].get("object_store_memory", 0)),
            ports={name: int(row[key]) for name, key in SHARE_OF_PORTS.items()},
        )
        for row in alive
    ]
    return tuple(sorted(members, key=lambda one: (not one.is_head, one.address, one.id)))


def addresses_for(at: int, members: Sequence[MemberSeen]) -> tuple[str, ...]:
    """What the node at that place connects to. Pure."""
    others = [*members[at + 1 :], *members[:at]][:NEIGHBOURS]
    if at > 0 and members[0] not in others:
        others.append(members[0])
    return tuple(f"{other.address}:{port}" for other in others for port in other.ports.values())


def disks_for(member: MemberSeen, disks: Sequence[str], here: str) -> tuple[str, ...]:
    """Which folders besides the usual ones have to be writable there: this command's home on its own node alone. Pure."""
    return tuple(disks) if member.id == here else ()


def _on(member: MemberSeen, what: Callable[..., Any], *words: Any) -> Any:
    task: Any = ray.remote(num_cpus=0, max_retries=0)(what)
    there = NodeAffinitySchedulingStrategy(member.id, soft=False)
    return task.options(scheduling_strategy=there).remote(*words)


def _answered(member: MemberSeen, pending: Any) -> MemberSeen:
    try:
        machine = MachineSeen.model_validate(ray.get(pending, timeout=0))
    except TimeoutError:
        return member.model_copy(update={"silent": f"not within {ANSWER_S:.0f} s"})
    except (RayError, ValueError) as error:
        lines = str(error).strip().splitlines() or [""]
        return member.model_copy(update={"silent": f"{type(error).__name__}: {lines[-1][:300]}"})
    return member.model_copy(update={"machine": machine, "clock": _clock(member)})


def _clock(member: MemberSeen) -> ClockSeen | None:
    """Of a few answers the one that took the least time, from a worker that runs already."""
    found: list[ClockSeen] = []
    for _ in range(CLOCK_TRIES):
        begun = time.time()
        try:
            there = float(ray.get(_on(member, on_node.now_s), timeout=CLOCK_S))
        except (RayError, TimeoutError):
            break  # what is known of it stays; that it did not answer this time is no finding of clocks
        ended = time.time()
        found.append(ClockSeen(ahead_s=there - (begun + ended) / 2, error_s=(ended - begun) / 2))
    return min(found, key=lambda one: one.error_s, default=None)
