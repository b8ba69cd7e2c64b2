"""`headrace doctor`: whether machines can carry Headrace."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace.cli.exits import ExitCode
from headrace.cli.screens.output import AsJson, answers, many, print_json
from headrace.doctor.examine import Diagnosis, judge
from headrace.doctor.problem import Weight
from headrace.doctor.seen import MachineSeen, MemberSeen
from headrace.local.home import read_settings

app = typer.Typer()

PORTS = {"min": 1, "max": 65535}
STYLES = {Weight.FAULT: "red", Weight.WARNING: "yellow"}


@app.command("doctor")
def doctor(
    http_port: Annotated[int, typer.Option(**PORTS, help="Where doors will listen for HTTP.")] = 8000,
    grpc_port: Annotated[int, typer.Option(**PORTS, help="Where doors will listen for gRPC.")] = 9000,
    as_json: AsJson = False,
) -> None:
    """Look whether these machines can carry Headrace: before `headrace up`, and at any time after.

    Of each node of the Ray at RAY_ADDRESS, or that `up` started, and where there is none of this machine: versions of Python, Ray
    and Headrace, what its Ray was started with, its clock, ports to the other nodes, paths that all must see, brokers, GPU
    drivers, room on disks and in /dev/shm. Of the store and the brokers whether they answer, and whether streams may do
    what they have to. It starts nothing and changes nothing.

    Exits with 1 where something will fail; warnings alone exit with 0.

    Example: `headrace doctor --http-port 8080`, with RAY_ADDRESS=10.0.0.1:6379 for a cluster
    """
    from headrace.doctor.observe import observe

    found = judge(observe(read_settings(), (http_port, grpc_port)))
    if as_json:
        print_json({"faults": found.faults, **found.model_dump(mode="json")})
    else:
        answers().print(shown_diagnosis(found))
    if found.faults:
        raise typer.Exit(ExitCode.FAILED)


def shown_diagnosis(found: Diagnosis) -> RenderableType:
    """The nodes, then what is wrong with them, each with its remedy."""
    parts: list[RenderableType] = [_nodes(found.seen.members), Text()]
    for problem in found.problems:
        head = Text.assemble((f"{problem.weight}: ", STYLES[problem.weight]), f"{problem.check}: {problem.where}: {problem.what}")
        parts += [head, Text(f"  try: {problem.remedy}")]
    warnings = len(found.problems) - found.faults
    if not found.problems:
        parts.append(Text("nothing is wrong", "green"))
    else:
        parts += [Text(), Text(f"{many(found.faults, 'fault')}, {many(warnings, 'warning')}")]
    return Group(*parts)


def _nodes(members: tuple[MemberSeen, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("node", "role", "Python", "Ray", "Headrace", "clock", "GPUs", "free where it is least"):
        table.add_column(column, overflow="fold")
    for member in members:
        role = "head" if member.is_head else "worker"
        machine = member.machine
        if machine is None:
            table.add_row(member.address, role, *(["-"] * 5), Text("silent", "red"))
            continue
        packages = (machine.packages.get(name) or "none" for name in ("ray", "headrace"))
        clock = "-" if member.clock is None else f"{member.clock.ahead_s:+.2f} s"
        table.add_row(member.address, role, machine.python, *packages, clock, str(len(machine.gpus or ())), _least(machine))
    return table


def _least(machine: MachineSeen) -> str:
    rooms = [disk for disk in machine.disks if not disk.trouble]
    least = min(rooms, key=lambda disk: disk.free_bytes, default=None)
    return "-" if least is None else f"{least.path} {least.free_bytes / (1 << 30):.1f} GiB"
