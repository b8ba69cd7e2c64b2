"""`headrace stream ...`: the streams that run."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from cluster.commands import FeedList, FeedName, FeedView
from consumers.stream.counters import WorkerStatus
from headrace.cli.screen import AsJson, answers, print_json
from headrace.client import ControlClient

app = typer.Typer(
    help="""Look at streams, pause them and resume them.

A stream reads an input topic, scores each record, and writes answers and dead letters. Its Stream document is applied with
`headrace apply -f stream.yaml`.

Example: `headrace stream status digits`"""
)

Name = Annotated[str, typer.Argument(help="The stream's name.")]


@app.command("ls")
def list_streams(as_json: AsJson = False) -> None:
    """List all streams.

    Example: `headrace stream ls --json`
    """
    with ControlClient.from_environment() as client:
        streams = tuple(feed for feed in client.feeds() if feed.kind == "stream")
    if as_json:
        print_json(FeedList(feeds=streams))
    elif streams:
        answers().print(_table(streams))
    else:
        answers().print("no streams; apply a document of kind Stream with `headrace apply -f FILE`")


@app.command()
def status(name: Name, as_json: AsJson = False) -> None:
    """Show one stream: what is wanted, what is seen, its topics, and each worker with its partitions, lag and rate.

    Example: `headrace stream status digits`
    """
    with ControlClient.from_environment() as client:
        _print(client.feed(_stream(name)), as_json)


@app.command()
def pause(name: Name, as_json: AsJson = False) -> None:
    """Drain a stream and stop it; what it has not taken waits in the topic.

    Example: `headrace stream pause digits`
    """
    with ControlClient.from_environment() as client:
        _print(client.pause_feed(_stream(name)), as_json)


@app.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Start a paused stream again, from where it left off.

    Example: `headrace stream resume digits`
    """
    with ControlClient.from_environment() as client:
        _print(client.resume_feed(_stream(name)), as_json)


def _stream(name: str) -> FeedName:
    return FeedName(kind="stream", name=name)


def _print(stream: FeedView, as_json: bool) -> None:
    if as_json:
        print_json(stream)
        return
    answers().print(_table((stream,)))
    for label in ("input", "output", "dead_letters"):
        answers().print(f"{label}: {_topics(stream.spec.get(label, {}))}")
    if stream.message:
        answers().print(f"message: {stream.message}")
    if stream.workers:
        answers().print(_workers(tuple(WorkerStatus.model_validate(worker) for worker in stream.workers)))


def _topics(section: dict[str, Any]) -> str:
    return section.get("topic") or ", ".join(section.get("topics", ())) or section.get("pattern", "")


def _table(streams: tuple[FeedView, ...]) -> Table:
    table = Table("stream", "model", "wanted", "status", "replicas", "message")
    for stream in streams:
        message = stream.message.splitlines()[0] if stream.message else ""
        table.add_row(stream.name, stream.model, stream.wanted, stream.status, str(stream.replicas), message)
    return table


def _workers(workers: tuple[WorkerStatus, ...]) -> Table:
    columns = (
        "worker",
        "phase",
        "partitions",
        "lag",
        "rows/s",
        "in flight",
        "commit ms",
        "in",
        "out",
        "dead",
        "breaker",
        "client",
    )
    table = Table(*columns)
    for worker in sorted(workers, key=lambda worker: worker.rank):
        table.add_row(
            str(worker.rank),
            worker.phase,
            " ".join(map(str, worker.partitions)) or "-",
            str(sum(worker.lag.values())),
            f"{worker.rows_s:.0f}",
            f"{worker.in_flight_rows} rows, {worker.in_flight_bytes / 1024:.0f} KiB",
            f"{worker.commit_ms:.0f}",
            str(worker.rows_in),
            str(worker.rows_out),
            str(worker.rows_dead),
            "open" if worker.breaker_open else "closed",
            worker.client,
        )
    return table
