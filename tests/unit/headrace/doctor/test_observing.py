"""What the doctor asks: this machine for real, without a Ray; nodes' order and neighbours; paths of versions; topics' rights."""

from __future__ import annotations

import json
import platform
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import BadArtifact, Forbidden, NotFound, Unreachable
from cluster.store.engine import ask_store
from consumers.stream.kafka.check_up import READ, WRITE, PartitionCopies, copies_in, judge_topics, leaders_in
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.doctor import on_node
from headrace.doctor.artifacts import ask_artifact
from headrace.doctor.nodes import NEIGHBOURS, addresses_for, disks_for, in_order
from headrace.doctor.seen import MachineSeen, MemberSeen
from tests.support.models import mlp_artifact


def test_a_machine_tells_what_it_has_and_what_it_reaches(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        here, gone = str(tmp_path), str(tmp_path / "gone")
        told = on_node.machine(("HOME",), (gone,), (here, gone), (f"127.0.0.1:{port}", "127.0.0.1:1"), (port, 1))
    seen = MachineSeen.model_validate(told)
    assert seen.packages["headrace"] is not None
    assert seen.variables.keys() == {"HOME"}
    assert seen.visible == {here: True, gone: False}
    assert seen.reaches[f"127.0.0.1:{port}"] == ""
    assert "refused" in seen.reaches["127.0.0.1:1"]
    assert seen.taken == {port: True, 1: False}
    assert seen.disks[0].path == gone
    assert seen.disks[0].free_bytes > 0


def test_all_addresses_are_tried_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=20.0)

    def dropped(address: str) -> str:
        together.wait()
        return f"{address} says nothing"

    monkeypatch.setattr(on_node, "_reach", dropped)
    reaches = on_node.machine((), (), (), ("a:1", "b:2", "c:3"), ())["reaches"]
    assert reaches == {each: f"{each} says nothing" for each in ("a:1", "b:2", "c:3")}


def test_the_home_has_to_be_writable_on_its_own_node_alone() -> None:
    members = in_order([_row(number) for number in range(2)])
    home = ("/home/ann/.headrace",)
    assert [disks_for(member, home, members[1].id) for member in members] == [(), home]


@pytest.mark.parametrize(("system", "looked_at"), [("Linux", True), ("Darwin", False)])
def test_shared_memory_is_looked_at_where_ray_uses_it(monkeypatch: pytest.MonkeyPatch, system: str, looked_at: bool) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    disks = MachineSeen.model_validate(on_node.machine((), (), (), (), ())).disks
    assert any(disk.path.endswith("/shm") for disk in disks) is looked_at


def test_nodes_are_asked_about_their_neighbours_and_the_head() -> None:
    rows = [_row(number) for number in range(2 * NEIGHBOURS)]
    rows[3]["Resources"]["node:__internal_head__"] = 1.0
    rows[5]["Alive"] = False
    members = in_order(rows)
    assert len(members) == 2 * NEIGHBOURS - 1
    assert members[0].is_head
    for at in range(len(members)):
        asked = addresses_for(at, members)
        assert f"{members[at].address}:7000" not in asked
        assert at == 0 or f"{members[0].address}:7000" in asked
        assert len(asked) <= 2 * (NEIGHBOURS + 1)
    alone: tuple[MemberSeen, ...] = members[:1]
    assert addresses_for(0, alone) == ()


def _row(number: int) -> dict[str, Any]:
    return {
        "NodeID": f"{number:02}",
        "NodeManagerAddress": f"10.0.0.{number:03}",
        "Alive": True,
        "NodeManagerPort": 7000,
        "ObjectManagerPort": 7001,
        "Resources": {"CPU": 1.0},
    }


@pytest.mark.parametrize(
    ("told", "refused"),
    [(1 << READ, False), (1 << WRITE, True), ({READ, WRITE}, False), ({WRITE}, True), (-(1 << 31), False), (None, False)],
)
def test_a_right_that_the_broker_says_is_missing(told: object, refused: bool) -> None:
    described = [{"name": "in", "partitions": [{}], "topic_authorized_operations": told}]
    found = list(judge_topics(described, {"in": READ}, "scores"))
    assert [type(error) for error in found] == ([Forbidden] if refused else [])
    assert all("read" in error.what for error in found)


def test_a_topic_that_is_not_there_is_told() -> None:
    found = list(judge_topics([{"name": "in", "partitions": []}], {"in": READ, "out": WRITE}, "scores"))
    assert [type(error) for error in found] == [NotFound, NotFound]
    assert "topic out" in found[1].where


def test_copies_that_are_not_in_sync_are_counted_and_what_takes_no_records_for_it() -> None:
    def partition(number: int, in_sync: list[int], leader: int = 1) -> dict[str, Any]:
        away = [broker for broker in (1, 2, 3) if broker not in in_sync]
        shared = {"partition_index": number, "leader_id": leader, "replica_nodes": [1, 2, 3]}
        return {**shared, "isr_nodes": in_sync, "offline_replicas": away}

    described = [
        {"name": "in", "partitions": [partition(0, [1, 2, 3]), partition(1, [1, 3]), partition(2, [1])]},
        {"name": "out", "partitions": [partition(0, [1]), partition(1, [], leader=-1)]},
    ]
    assert copies_in(described, {"in": 2}) == PartitionCopies(5, ("in-1", "in-2", "out-0", "out-1"), ("in-2", "out-1"), (1, 2, 3))
    assert copies_in(described[:1], {"in": 1}) == PartitionCopies(3, ("in-1", "in-2"), (), (2, 3))
    assert copies_in([], {}) == PartitionCopies()
    everywhere = {1: "a:1", 2: "b:2", 3: "c:3", 9: "z:9"}
    assert leaders_in(described, everywhere) == ("a:1", "z:9")  # of the last, nothing is seen: it may coordinate the group
    assert leaders_in([], everywhere) == tuple(everywhere.values())


def test_an_artifact_that_is_there_and_one_that_is_not(tmp_path: Path) -> None:
    uri, _, _ = mlp_artifact(tmp_path)
    ask_artifact(uri)
    with pytest.raises(BadArtifact, match="no manifest"):
        ask_artifact(str(tmp_path / "gone"))


def test_a_store_that_is_away_and_a_file_that_is_not_made(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "store.db"
    ask_store(f"sqlite:///{file}")
    assert not file.parent.exists()
    with pytest.raises(Unreachable, match="does not answer"):
        ask_store("postgresql+psycopg://nobody@127.0.0.1:1/headrace")


def test_the_command_judges_this_machine_where_no_ray_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HEADRACE_HOME", str(home))
    for name in ("HEADRACE_URL", "HEADRACE_RAY_ADDRESS", "RAY_ADDRESS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == (ExitCode.FAILED if told["faults"] else ExitCode.OK)
    assert [member["address"] for member in told["seen"]["members"]] == ["this machine"]
    assert not home.exists()
    monkeypatch.setenv("HEADRACE_STORE_URL", "postgresql+psycopg://nobody:secret@127.0.0.1:1/headrace")
    assert main(["doctor"]) == ExitCode.FAILED
    shown = capsys.readouterr().out
    assert "the store does not answer" in " ".join(shown.split())
    assert "try: check that it runs" in shown
    assert "secret" not in shown
