"""`headrace stream ...`: the streams that run."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cluster.commands.feeds import FeedList, FeedName, FeedView
from cluster.commands.streams.moves import REPLAY, WORDS_MOST, ReplayLetters
from cluster.commands.watch.by_hand import HandAct
from cluster.errors import BadInput
from consumers.stream.counters import Counters, WorkerStatus
from headrace.by_hand import recorded
from headrace.cli.screens.output import AsJson, answers, notes, print_json, remark
from headrace.client import ControlClient
from headrace.local.home import read_settings

app = typer.Typer(
    help="""Look at streams, pause and resume them, move them, and score records again.

A stream reads an input topic, scores each record, and writes answers and dead letters. Its Stream document is applied with
`headrace apply -f stream.yaml`.

Example: `headrace stream status digits`"""
)

Name = Annotated[str, typer.Argument(help="The stream's name.")]
Timeout = Annotated[float, typer.Option("--timeout", "--timeout-s", help="How long to wait, in seconds.", min=0)]


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


@app.command()
def drain(name: Name, timeout_s: Timeout = 600.0, as_json: AsJson = False) -> None:
    """Wait until all that lies in the input is scored, then stop the stream.

    Example: `headrace stream drain digits`
    """
    from headrace.cli import stream_moves as moves  # brings Kafka's client, which other commands need not wait for

    with ControlClient.from_environment() as client:
        _print(moves.drain(client, _stream(name), timeout_s=timeout_s), as_json)


@app.command()
def seek(
    name: Name,
    to: Annotated[str, typer.Option(help="earliest, latest, or a time such as 2026-11-24T08:00:00.")],
    timeout_s: Timeout = 120.0,
    as_json: AsJson = False,
) -> None:
    """Move a stream to another place of its input: it is stopped, moved, and started again where it ran.

    What it has scored already is scored again where it goes back, and answered again.

    Example: `headrace stream seek digits --to 2026-11-24T08:00:00`
    """
    from headrace.cli import stream_moves as moves  # brings Kafka's client, which other commands need not wait for

    with ControlClient.from_environment() as client:
        stream = client.feed(_stream(name))
        with recorded(HandAct.SEEK, remark, model=stream.model, name=name, to=to):
            moved = moves.seek(client, _stream(name), to, read_settings(), timeout_s=timeout_s)
        _print(moved, as_json)


@app.command()
def replay(
    name: Name,
    dead_letters: Annotated[bool, typer.Option("--dead-letters", help="Score the dead letters again.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only dead letters of which FIELD=TEXT, FIELD!=TEXT or FIELD~REGEX holds; may be given again."),
    ] = None,
    begin: Annotated[str | None, typer.Option("--from", help="Only what was published at this time or later.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only what was published before this time.")] = None,
    to_topic: Annotated[str | None, typer.Option(help="Answers go to this topic; else to the stream's output.")] = None,
    replay_id: Annotated[str | None, typer.Option("--id", help="Go on with the replay of this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score records again, with the versions that serve now: the dead letters, or the input between two times.

    The stream goes on undisturbed: a replay reads in a group of its own, each record once, and marks what it writes with the
    header headrace.replay. Fields of --where: topic, partition, stage, exception, message. It takes the role operate, and stands
    in the audit.

    Example: `headrace stream replay digits --dead-letters --where message~NaN`
    """
    if dead_letters == (begin is not None or end is not None):
        raise BadInput("say what to replay", where="replay", remedy="give --dead-letters, or --from and --to")
    if where and not dead_letters:
        raise BadInput("only dead letters have what --where asks for", where="--where", remedy="leave it out")
    from consumers.stream.replay.conditions import Condition
    from consumers.stream.replay.times import milliseconds
    from headrace.cli import stream_moves as moves  # brings Kafka's client, which other commands need not wait for

    asked = moves.ReplayWanted(
        dead_letters=dead_letters,
        conditions=tuple(Condition.parse(each) for each in where or ()),
        from_ms=milliseconds(begin, "--from"),
        to_ms=milliseconds(end, "--to"),
        to_topic=to_topic,
        replay=replay_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}",
    )
    which = (
        f"dead letters {' '.join(where or ())}"
        if dead_letters
        else f"the input from {begin or 'its beginning'} to {end or 'now'}"
    )
    with ControlClient.from_environment() as client:
        stream = client.feed(_stream(name))
        client.call(REPLAY, ReplayLetters(name=name, replay=asked.replay, which=which.strip()[:WORDS_MOST]))
    with notes().status(f"replay {asked.replay}") as shown:

        def look(counters: Counters, message: str) -> None:
            shown.update(Text(f"replay {asked.replay}: {counters.rows_in} records {message}".rstrip()))

        done = moves.replay(stream, asked, read_settings(), look)
    if as_json:
        print_json({"id": asked.replay} | asdict(done))
    else:
        told = f"{done.rows_out} scored, {done.rows_dead} dead letters, {done.rows_skipped} left out"
        answers().print(f"{name}: replay {asked.replay}: {told}")


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
        workers = tuple(WorkerStatus.model_validate(worker) for worker in stream.workers)
        answers().print(_workers(workers))
        for line in [*_about_explanations(workers), *_about_partitions(workers)]:
            answers().print(line)


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
        "retries",
        "recoveries",
        "breaker",
        "client",
        "age",
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
            str(worker.retries),
            str(worker.recoveries),
            "open" if worker.breaker_open else "closed",
            worker.client,
            f"{worker.age_s:.0f} s",
        )
    return table


def _about_explanations(workers: tuple[WorkerStatus, ...]) -> list[str]:
    """How far the explanations of each worker have come, which fall behind alone."""
    lines = []
    for worker in sorted(workers, key=lambda worker: worker.rank):
        if (made := worker.explain) is None:
            continue
        told = f"{made.phase}: {made.message}" if made.message else made.phase
        lines.append(
            f"explanations of worker {worker.rank}: {told}, lag {sum(made.lag.values())}, {made.rows_s:.0f} rows/s, "
            f"{made.rows_out} of {made.rows_in} records explained"
        )
    return lines


def _about_partitions(workers: tuple[WorkerStatus, ...]) -> list[str]:
    """Where each partition began, and what keeps some of them."""
    lines = []
    for worker in sorted(workers, key=lambda worker: worker.rank):
        for label, began in worker.began.items():
            gap = f"; {began.missing} offsets before that are missing" if began.missing else ""
            lines.append(f"partition {label}: worker {worker.rank} began at {began.offset}: {began.why}{gap}")
        lines += [f"partition {label}: not read by worker {worker.rank}: {why}" for label, why in worker.held.items()]
        for label, opened in worker.open_transactions.items():
            since = datetime.fromtimestamp(opened.since_s, UTC)
            lines.append(f"partition {label}: {opened.records} records behind a transaction left open since {since:%H:%M:%S} UTC")
    return lines
