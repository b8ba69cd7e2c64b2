"""`headrace logs`: of all processes, wherever they run."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer
from rich.text import Text

from cluster.errors import BadInput, NoCapacity, NotFound, Unreachable
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.client import ControlClient
from headrace.local.home import Settings, read_settings
from headrace.local.logs.lines import fields_of, in_words
from headrace.local.logs.reading import LogLine, LogReader
from headrace.local.logs.sources import LogFilter
from headrace.local.ray.dashboard import DashboardAsker
from headrace.local.run_state import load_run

app = typer.Typer()

LINES = 20
COLOURS = ("cyan", "green", "magenta", "yellow", "blue")


@app.command("logs")
def logs(
    model: Annotated[str, typer.Option("--model", "-m", help="of a model's replicas and streams: NAME or NAME:VERSION")] = "",
    stream: Annotated[str, typer.Option("--stream", "-s", help="of a stream's workers")] = "",
    gateway: Annotated[bool, typer.Option("--gateway", help="of the gateways")] = False,
    controller: Annotated[bool, typer.Option("--controller", help="of the controller")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="how many of each, from its end")] = LINES,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="show each line as it comes, until Ctrl-C")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last lines that our processes have logged, on all nodes; also of replicas that have ended.

    Lines that were written as JSON are shown in words, and with --json as they are, with whose they are; those that were not are
    the field `line` there.

    Example: `headrace logs --model digits --follow`
    """
    settings = read_settings()
    wanted = _filter(settings, model, stream, gateway=gateway, controller=controller)
    reader = LogReader(_dashboard(settings))
    sources = reader.sources(wanted)
    if not sources:
        what = "no log is there" if wanted.everything else "nothing of that has logged"
        raise NotFound(what, where="logs", remedy="see `headrace status` for what runs; a log goes when Ray's folder is full")
    colours = {source: COLOURS[place % len(COLOURS)] for place, source in enumerate(sources)}

    def show(line: LogLine) -> None:
        if as_json:
            print_json({"of": line.source.label, "node": line.source.node, **(fields_of(line.text) or {"line": line.text})})
        else:
            text = in_words(line.text)
            answers().print(Text.assemble((f"{line.source.label} | ", colours[line.source]), text), soft_wrap=True)

    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            for line in reader.follow(sources, lines):
                show(line)
        return
    shown = 0
    for source in sources:
        for line in reader.tail(source, lines):
            show(line)
            shown += 1
    if not shown:
        notes().print(f"nothing was logged yet by {', '.join(source.label for source in sources)}", soft_wrap=True)


def _filter(settings: Settings, model: str, stream: str, *, gateway: bool, controller: bool) -> LogFilter:
    name, colon, number = model.partition(":")
    if colon and not number.isdecimal():
        raise BadInput(f"{model!r} names no version", where="--model", remedy="write NAME or NAME:VERSION, e.g. digits:3")
    its_streams: frozenset[str] = frozenset()
    if name:
        try:
            with ControlClient.from_environment(settings, patient=False) as client:
                its_streams = frozenset(
                    feed.name for feed in client.status().feeds if feed.kind == "stream" and feed.model == name
                )
        except (Unreachable, NoCapacity) as error:  # who looks into logs does so because something is away
            remark(f"the streams of {name} are not known, and theirs are left out: {error.what}")
    return LogFilter(name, int(number) if colon else None, its_streams, stream, gateway, controller)


def _dashboard(settings: Settings) -> DashboardAsker:
    run = load_run(settings.home)
    if run is None or not run.addresses.dashboard:
        raise Unreachable(
            "nothing says where Ray's dashboard is", where=str(settings.home.root), remedy="run it where `headrace up` was run"
        )
    return DashboardAsker(run.addresses.dashboard, settings.home, owns_ray=run.owns_ray)
