"""What the doctor finds wrong: each rule from values, with its remedy, and nothing where all is well."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.doctor.examine import judge
from headrace.doctor.problem import Problem, Weight
from headrace.doctor.seen import ClockSeen, ClusterSeen, CopiesSeen, DiskSeen, GpuSeen, MachineSeen, MemberSeen, TroubleSeen

GIB = 1 << 30
SHM = "/dev/shm"  # noqa: S108 (a name alone)
PACKAGES = {"ray": "2.60.0", "headrace": "0.1.0", "onnxruntime": "1.20", "onnxruntime-gpu": None, "torch": None}
ROOM = (
    DiskSeen(path="/home/h", total_bytes=100 * GIB, free_bytes=50 * GIB),
    DiskSeen(path=SHM, total_bytes=8 * GIB, free_bytes=8 * GIB),
)


def machine(**changes: Any) -> MachineSeen:
    return MachineSeen(**{"python": "3.11.2", "packages": PACKAGES, "variables": {"A": "1"}, "disks": ROOM, **changes})


def member(address: str = "10.0.0.1", **changes: Any) -> MemberSeen:
    usual = {
        "id": address,
        "address": address,
        "is_head": address.endswith(".1"),
        "object_store_bytes": 4 * GIB,
        "ports": {"raylet": 7000},
        "clock": ClockSeen(ahead_s=0.1, error_s=0.01),
        "machine": machine(),
    }
    return MemberSeen(**{**usual, **changes})


def cluster(*members: MemberSeen, **changes: Any) -> ClusterSeen:
    usual = {"ray": "10.0.0.1:6379", "here": machine(), "store": "postgresql://db", "store_is_file": False}
    return ClusterSeen(**{**usual, "members": members or (member(), member("10.0.0.2")), **changes})


def only(seen: ClusterSeen) -> Problem:
    problems = judge(seen).problems
    assert len(problems) == 1, problems
    assert problems[0].remedy
    return problems[0]


def test_a_cluster_where_all_is_well_has_no_problem() -> None:
    found = judge(cluster())
    assert found.problems == ()
    assert found.faults == 0


@pytest.mark.parametrize(
    ("changes", "check", "weight", "words"),
    [
        ({"clock": ClockSeen(ahead_s=-90.0, error_s=0.01)}, "clocks", Weight.FAULT, "90.0 s behind"),
        ({"clock": ClockSeen(ahead_s=5.0, error_s=0.01)}, "clocks", Weight.WARNING, "5.0 s ahead"),
        ({"machine": None, "silent": "WorkerCrashedError: gone"}, "nodes", Weight.FAULT, "gone"),
        ({"machine": machine(packages={**PACKAGES, "headrace": "0.2.0"})}, "versions", Weight.FAULT, "headrace 0.2.0"),
        ({"machine": machine(packages={**PACKAGES, "headrace": None})}, "versions", Weight.FAULT, "not installed"),
        ({"machine": machine(packages={**PACKAGES, "ray": "2.59.0"})}, "versions", Weight.FAULT, "ray 2.59.0"),
        ({"machine": machine(python="3.12.1")}, "versions", Weight.FAULT, "3.12.1"),
        ({"machine": machine(python="3.11.9")}, "versions", Weight.WARNING, "3.11.9"),
        ({"machine": machine(variables={"A": None})}, "variables", Weight.FAULT, "nothing on 10.0.0.2"),
        ({"machine": machine(reaches={"10.0.0.1:7000": "Connection refused"})}, "ports", Weight.FAULT, "raylet of 10.0.0.1"),
        ({"machine": machine(reaches={"kafka:9092": "timed out"})}, "Kafka", Weight.FAULT, "kafka:9092"),
        ({"machine": machine(taken={8000: True, 9000: False})}, "ports", Weight.WARNING, "no door"),
        ({"machine": machine(visible={"/v/1": False})}, "shared paths", Weight.FAULT, "the files of digits:1"),
        ({"machine": machine(visible={"/m/.doctor": False})}, "shared paths", Weight.WARNING, "does not see /m,"),
        ({"gpus": 1.0}, "GPUs", Weight.FAULT, "nvidia-smi does not answer"),
    ],
)
def test_what_is_wrong_on_one_node_is_told_once_with_its_weight(
    changes: dict[str, Any], check: str, weight: Weight, words: str
) -> None:
    seen = cluster(
        member(), member("10.0.0.2", **changes), files={"/v/1": "the files of digits:1"}, home="/m", marker="/m/.doctor"
    )
    problem = only(seen)
    assert (problem.check, problem.weight) == (check, weight)
    assert words in problem.what
    assert "10.0.0.2" in problem.where or problem.check == "variables"


def test_a_clock_that_can_not_be_told_from_right_is_no_problem() -> None:
    assert judge(cluster(member(clock=ClockSeen(ahead_s=3.0, error_s=2.5)))).problems == ()


@pytest.mark.parametrize(
    ("disk", "check", "weight"),
    [
        (DiskSeen(path="/d", total_bytes=100 * GIB, free_bytes=3 * GIB), "disks", Weight.FAULT),
        (DiskSeen(path="/d", total_bytes=10 * GIB, free_bytes=4 * GIB), "disks", Weight.WARNING),
        (DiskSeen(path="/d", total_bytes=2 * GIB, free_bytes=GIB // 2), "disks", Weight.FAULT),
        (DiskSeen(path="/d", trouble="Permission denied"), "disks", Weight.FAULT),
        (DiskSeen(path=SHM, total_bytes=64 << 20, free_bytes=64 << 20), "shared memory", Weight.FAULT),
        (DiskSeen(path=SHM, trouble="Read-only file system"), "shared memory", Weight.FAULT),
    ],
)
def test_room_that_is_wanting(disk: DiskSeen, check: str, weight: Weight) -> None:
    problem = only(cluster(member(machine=machine(disks=(disk,)))))
    assert (problem.check, problem.weight) == (check, weight)
    assert disk.path in problem.where


@pytest.mark.parametrize(
    ("driver", "packages", "counted", "words"),
    [
        ("470.82.01", {"onnxruntime": None, "onnxruntime-gpu": "1.20"}, 1.0, "too old for onnxruntime-gpu 1.20"),
        ("550.54", {"onnxruntime": None, "torch": "2.9.0+cu130"}, 1.0, "which needs 580"),
        ("580.12", {}, 1.0, "the one for CPUs"),
        ("580.12", {"onnxruntime": None, "onnxruntime-gpu": "1.20"}, 0.0, "does not hand out"),
    ],
)
def test_gpus_that_would_stay_idle(driver: str, packages: dict[str, str | None], counted: float, words: str) -> None:
    seen = machine(gpus=(GpuSeen(name="H200", driver=driver, memory_mib=140_000),), packages={**PACKAGES, **packages})
    assert words in only(cluster(member(machine=seen, gpus=counted))).what


def test_a_gpu_with_what_it_needs_is_no_problem() -> None:
    packages = {**PACKAGES, "onnxruntime": None, "onnxruntime-gpu": "1.20", "torch": "2.9.0+cu130"}
    seen = machine(gpus=(GpuSeen(name="H200", driver="580.12", memory_mib=140_000),), packages=packages)
    assert judge(cluster(member(machine=seen, gpus=1.0))).problems == ()


def test_a_store_in_a_file_is_lost_with_the_head_of_many_nodes() -> None:
    assert only(cluster(store_is_file=True)).check == "store"
    assert judge(cluster(member(), store_is_file=True)).problems == ()


def test_faults_come_first_and_are_counted() -> None:
    trouble = TroubleSeen(where="postgresql://db", what="the store does not answer", remedy="check that it runs")
    found = judge(cluster(member(clock=ClockSeen(ahead_s=2.0, error_s=0.0)), troubles=(trouble,)))
    assert [problem.weight for problem in found.problems] == [Weight.FAULT, Weight.WARNING]
    assert found.problems[0].what == trouble.what
    assert found.faults == 1


FOUR = tuple(f"in-{number}" for number in range(4))


@pytest.mark.parametrize(
    ("copies", "weight", "words", "remedy"),
    [
        (
            CopiesSeen(partitions=9, lack=FOUR, away=(2,)),
            Weight.WARNING,
            "of its brokers away: 2; 4 of 9 partitions (in-0, in-1, in-2, ...) are under-replicated",
            "start broker 2 again",
        ),
        (
            CopiesSeen(partitions=9, lack=FOUR, stopped=FOUR[:1], away=(2, 3)),
            Weight.FAULT,
            "of its brokers away: 2, 3; 1 of 9 partitions (in-0) take no records",
            "start broker 2, 3 again",
        ),
        (CopiesSeen(partitions=9, lack=FOUR[:1]), Weight.WARNING, "no broker is away, but one lags behind", "load and the disks"),
    ],
    ids=["one of three", "two of three", "one lags"],
)
def test_copies_that_kafka_lacks_are_told(copies: CopiesSeen, weight: Weight, words: str, remedy: str) -> None:
    told = only(cluster(copies={"kafka:9092": copies}))
    assert (told.check, told.where, told.weight) == ("Kafka", "kafka:9092", weight)
    assert words in told.what
    assert remedy in told.remedy


def test_a_kafka_that_has_all_copies_is_no_problem() -> None:
    assert judge(cluster(copies={"kafka:9092": CopiesSeen(partitions=9)})).problems == ()


@pytest.mark.parametrize(
    ("reaches", "told", "leads", "weight", "words"),
    [
        ({"a:9092": "", "b:9092": "refused"}, "a:9092", "a:9092", Weight.WARNING, "b:9092, which its streams are told"),
        ({"a:9092": "refused", "10.0.0.8:9092": ""}, "10.0.0.8:9092", "10.0.0.8:9092", Weight.WARNING, "does not reach a:9092"),
        ({"a:9092": "", "b:9092": "refused"}, "a:9092 b:9092", "a:9092", Weight.WARNING, "b:9092, a broker that leads no"),
        ({"a:9092": "", "c:9092": "refused"}, "a:9092 c:9092", "a:9092", Weight.WARNING, "c:9092, a broker that leads no"),
        ({"a:9092": "", "b:9092": "refused"}, "a:9092 b:9092", "a:9092 b:9092", Weight.FAULT, "the broker b:9092: refused"),
        ({"b:9092": "refused"}, "", "", Weight.FAULT, "the broker b:9092: refused"),
    ],
    ids=[
        "one of the list is dead",
        "known by another name",
        "lost, and counted still",
        "lost, and not on the list",
        "it leads partitions",
        "none answers",
    ],
)
def test_an_address_to_begin_with_that_is_dead_is_a_fault_only_where_no_other_answers(
    reaches: dict[str, str], told: str, leads: str, weight: Weight, words: str
) -> None:
    node, list_ = member(machine=machine(reaches=reaches)), "a:9092, b:9092"
    problem = only(cluster(node, listeners={list_: tuple(told.split())}, leaders={list_: tuple(leads.split())}))
    assert (problem.check, problem.weight, problem.where) == ("Kafka", weight, "10.0.0.1")
    assert words in problem.what
    assert ("others of that Kafka answer" in problem.what) is (weight is Weight.WARNING)


def test_where_no_address_of_a_kafka_answers_each_is_a_fault_also_beside_another_kafka_that_does() -> None:
    reaches = {"a:9092": "refused", "b:9092": "refused", "other:9092": ""}
    found = judge(cluster(member(machine=machine(reaches=reaches)), listeners={"a:9092,b:9092": (), "other:9092": ()}))
    assert [problem.weight for problem in found.problems] == [Weight.FAULT] * 2
