"""Judges what is installed on nodes, and what their Ray was started with. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from headrace.doctor.problem import Problem, fault, warning
from headrace.doctor.seen import ClusterSeen, MachineSeen

ALIKE = ("ray", "headrace")


def judge_software(seen: ClusterSeen) -> Iterator[Problem]:
    """Of every node that answered, against this command's own."""
    machines = {member.address: member.machine for member in seen.members if member.machine is not None}
    for name in ALIKE:
        yield from _alike(name, seen.here.packages.get(name), {at: one.packages.get(name) for at, one in machines.items()})
    yield from _python(seen.here, machines)
    yield from _variables(machines)
    for member in seen.members:
        if member.silent:
            yield fault("nodes", member.address, f"it did not answer: {member.silent}", "read the log of the raylet on that node")


def _alike(name: str, here: str | None, there: Mapping[str, str | None]) -> Iterator[Problem]:
    for address, version in there.items():
        if version is None:
            yield fault(
                "versions", address, f"{name} is not installed for the Python of its Ray", f"install {name}=={here} there"
            )
        elif version != here:
            remedy = f"install {name}=={here} there, or run this command with {name}=={version}"
            yield fault("versions", address, f"it has {name} {version}, and this command {here}", remedy)


def _python(here: MachineSeen, machines: Mapping[str, MachineSeen]) -> Iterator[Problem]:
    """What is sent between nodes is pickled by one and read by the other."""
    for address, machine in machines.items():
        ours, theirs = here.python.split("."), machine.python.split(".")
        if ours[:2] != theirs[:2]:
            what = f"its Python is {machine.python}, and this command's {here.python}"
            yield fault("versions", address, what, f"use Python {'.'.join(ours[:2])} on all nodes")
        elif ours != theirs:
            what = f"its Python is {machine.python}, and this command's {here.python}: Ray warns, and goes on"
            yield warning("versions", address, what, "use the same Python on all nodes")


def _variables(machines: Mapping[str, MachineSeen]) -> Iterator[Problem]:
    """Handles and replicas of Serve must speak the same way."""
    names = sorted({name for machine in machines.values() for name in machine.variables})
    for name in names:
        values: dict[str | None, list[str]] = defaultdict(list)
        for address, machine in machines.items():
            values[machine.variables.get(name)].append(address)
        if len(values) > 1:
            told = "; ".join(f"{value or 'nothing'} on {', '.join(where)}" for value, where in values.items())
            yield fault("variables", name, f"nodes differ: {told}", "give `ray start` the same environment on all nodes")
