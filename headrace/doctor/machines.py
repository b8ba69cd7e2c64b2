"""Judges clocks, room and GPU drivers of machines. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from headrace.doctor.problem import Problem, fault, warning
from headrace.doctor.seen import ClusterSeen, DiskSeen, MachineSeen, MemberSeen

GIB = 1 << 30
SHM = "/dev/shm"  # noqa: S108 (a name to look for)
# A rollout's steps, labels' times and keys' ends are compared with what other nodes wrote.
CLOCK_WARNING_S, CLOCK_FAULT_S = 1.0, 30.0
LEAST_FREE_BYTES, LITTLE_FREE_BYTES = GIB, 5 * GIB
FULL = 0.95  # Ray takes nothing more on a disk that is so full
# The oldest drivers that run programs of a CUDA of that number (NVIDIA's table of compatibility).
LEAST_DRIVER = {12: 525, 13: 580}
CUDA_OF_ONNXRUNTIME = 12
DRIVER = re.compile(r"(\d+)(?:\.|$)")


def judge_machines(seen: ClusterSeen) -> Iterator[Problem]:
    """Of every node that answered."""
    for member in seen.members:
        yield from _clock(member)
        if member.machine is not None:
            yield from _disks(member, member.machine)
            yield from _gpus(member, member.machine)


def _clock(member: MemberSeen) -> Iterator[Problem]:
    clock = member.clock
    if clock is None or abs(clock.ahead_s) - clock.error_s <= CLOCK_WARNING_S:
        return
    way = "ahead of" if clock.ahead_s > 0 else "behind"
    what = f"its clock is {abs(clock.ahead_s):.1f} s {way} this machine's (give or take {clock.error_s:.2f} s)"
    remedy = "have chrony or systemd-timesyncd set the clocks of all nodes by the same servers"
    if abs(clock.ahead_s) - clock.error_s > CLOCK_FAULT_S:
        yield fault("clocks", member.address, what, remedy)
    else:
        yield warning("clocks", member.address, what, remedy)


def _disks(member: MemberSeen, machine: MachineSeen) -> Iterator[Problem]:
    for disk in machine.disks:
        where = f"{member.address}:{disk.path}"
        if disk.path == SHM:
            yield from _shm(member, disk, where)
        elif disk.trouble:
            yield fault("disks", where, f"can't be written: {disk.trouble}", "give the user of Ray a folder of its own there")
        else:
            yield from _room(disk, where)


def _room(disk: DiskSeen, where: str) -> Iterator[Problem]:
    free = f"{disk.free_bytes / GIB:.1f} GiB are free of {disk.total_bytes / GIB:.1f}"
    if disk.total_bytes and 1 - disk.free_bytes / disk.total_bytes > FULL:
        what = f"{free}: Ray takes no object to a disk that is {FULL:.0%} full"
        yield fault("disks", where, what, "free some, or give it a larger disk")
    elif disk.free_bytes < LEAST_FREE_BYTES:
        yield fault("disks", where, f"only {free}", "free some, or give it a larger disk")
    elif disk.free_bytes < LITTLE_FREE_BYTES:
        yield warning("disks", where, f"only {free}", "free some: versions, logs and what Ray spills go there")


def _shm(member: MemberSeen, disk: DiskSeen, where: str) -> Iterator[Problem]:
    if disk.trouble:
        yield fault("shared memory", where, f"can't be used: {disk.trouble}", "mount a tmpfs there")
    elif disk.total_bytes < member.object_store_bytes:
        yield fault(
            "shared memory",
            where,
            f"it has {disk.total_bytes / GIB:.2f} GiB, and Ray's object store wants {member.object_store_bytes / GIB:.2f}: what "
            "does not fit goes to a disk, and every batch waits for it",
            "make /dev/shm larger (docker: --shm-size, Kubernetes: an emptyDir in memory), or lower --object-store-memory",
        )


def _gpus(member: MemberSeen, machine: MachineSeen) -> Iterator[Problem]:
    seen = machine.gpus or ()
    if member.gpus and machine.gpus is None:
        what = f"Ray counts {member.gpus:g} GPUs there, and nvidia-smi does not answer"
        yield fault("GPUs", member.address, what, "install NVIDIA's driver (Kubernetes: its device plugin and runtime)")
        return
    if member.id and seen and not member.gpus:
        what = f"it has {len(seen)} GPUs that Ray does not hand out"
        yield warning("GPUs", member.address, what, "start its Ray with --num-gpus, or take the GPUs for something else")
    if seen:
        yield from _gpu_programs(member, machine)


def _gpu_programs(member: MemberSeen, machine: MachineSeen) -> Iterator[Problem]:
    driver = (machine.gpus or ())[0].driver
    found = DRIVER.match(driver)
    onnx, torch = machine.packages.get("onnxruntime-gpu"), machine.packages.get("torch")
    needs = {f"onnxruntime-gpu {onnx}": CUDA_OF_ONNXRUNTIME} if onnx else {}
    built = re.search(r"\+cu(\d\d)", torch or "")
    if built is not None:
        needs[f"torch {torch}"] = int(built[1])
    for name, cuda in needs.items():
        least = LEAST_DRIVER.get(cuda)
        if found is not None and least is not None and int(found[1]) < least:
            what = f"driver {driver} is too old for {name}, which needs {least} at least"
            yield fault("GPUs", member.address, what, "renew the driver")
    if machine.packages.get("headrace") and machine.packages.get("onnxruntime") and not onnx:
        yield warning(
            "GPUs",
            member.address,
            "its onnxruntime is the one for CPUs: ONNX versions with GPUs score on the CPU there",
            "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
