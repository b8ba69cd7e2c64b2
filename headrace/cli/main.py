"""The command line, put together. Imports only the module of the command that is asked for: `headrace` starts quickly."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import orjson
import typer

from cluster.error_wire import to_wire
from cluster.errors import BadInput, HeadraceError
from cluster.foreign import kind_and_words
from headrace.cli.exits import MEANING, ExitCode, code_of
from headrace.cli.screens.output import notes
from headrace.local.home import read_settings


@dataclass(frozen=True, slots=True)
class Entry:
    """One word at the top of the command line. Its module may be slow to import, so its one-line help stands here too."""

    module: str
    summary: str
    group: bool = False


ENTRIES: dict[str, Entry] = {
    "up": Entry("local", "Start Ray, the controller, the gateway and, with --broker, Apache Kafka."),
    "down": Entry("local", "Drain and end everything that `headrace up` started."),
    "status": Entry("local", "Show addresses, nodes, models, versions, replicas, rollouts and streams."),
    "doctor": Entry("cluster.doctor", "Look whether machines can carry Headrace, before and after it runs."),
    "leave": Entry("cluster.leave", "Let this node leave its cluster without a failed call."),
    "init": Entry("init", "Write a Model document for a model file."),
    "build": Entry("build", "Make a version from a trained model."),
    "models": Entry("models", "List the models and their versions."),
    "model": Entry("model", "Show, compare, sign, verify and remove versions; to and from registries, to MLflow.", group=True),
    "explain": Entry("explain.explain", "Say why a version answers a row as it does."),
    "sealing": Entry("sealing.sealing", "Make keys for sealed versions, and change whom one is sealed for.", group=True),
    "image": Entry("images.image", "Make a container image, and push it to a registry.", group=True),
    "apply": Entry("apply", "Make Models, Streams and Batches as the project files say."),
    "diff": Entry("apply", "Show what `headrace apply` would change, field by field."),
    "delete": Entry("delete", "Remove a model, a stream or a batch."),
    "rollout": Entry("rollout", "Replace a model's version live, on evidence.", group=True),
    "scale": Entry("scale", "Set the replicas of a model that is scaled by hand."),
    "stream": Entry("stream", "Watch, pause and resume streams.", group=True),
    "logs": Entry("watch.logs", "Show or follow the logs of replicas, streams, gateways and the controller."),
    "metrics": Entry("watch.metrics", "Show what Prometheus reads at /metrics."),
    "drift": Entry("watch.drift", "Show whether rows still look like those a version was built with; clear alarms.", group=True),
    "quality": Entry("watch.quality", "Show how right versions are by late labels; tell labels.", group=True),
    "payloads": Entry("watch.payloads", "Put what was logged of a model's requests to one of its versions.", group=True),
    "audit": Entry("watch.audit", "See what was done and by whom, and prove that nobody has changed it.", group=True),
    "signing": Entry("custody.signing", "Make and list the keys that sign versions.", group=True),
    "erase": Entry("privacy.erase", "Destroy a data subject's key: its encrypted fields open no more."),
    "key": Entry("key", "Make, list, rotate and revoke API keys.", group=True),
    "batch": Entry("batch", "Score Parquet datasets in bulk.", group=True),
}

HELP = """Score one model version online, on a Kafka stream and in bulk, and replace it live.

A first round:

- `headrace up --broker` starts Ray, a local Kafka, the controller and the gateway
- `headrace init model.onnx` writes model.yaml, a Model document, for a model file
- `headrace build model.yaml` makes version 1 of a model from its build section
- `headrace apply -f model.yaml` serves it; streams and batches are applied the same way
- `headrace status` shows addresses, models, versions, replicas and streams
- `headrace down` ends all that `up` started

Every command takes --json, for scripts. HEADRACE_HOME names the folder that holds everything (.headrace by default), HEADRACE_URL
a gateway elsewhere, HEADRACE_TOKEN (or the file HEADRACE_TOKEN_FILE) a key for it. Where it speaks TLS, HEADRACE_CA_FILE says
whom to trust, and HEADRACE_CLIENT_CERT with HEADRACE_CLIENT_KEY what to show. HEADRACE_DEBUG=1 shows tracebacks.
"""
EXIT_CODES = "Exit codes: " + "; ".join(f"{code:d} {meaning}" for code, meaning in MEANING.items())


def run() -> None:
    """The entry point `headrace`."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; every failure is one message on standard error."""
    as_json = "--json" in arguments
    try:
        command_line(arguments)(list(arguments), prog_name="headrace")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitCode.OK
    except HeadraceError as error:
        if read_settings().debug:
            raise
        _tell(error, as_json=as_json)
        return code_of(error)
    except Exception as error:  # the last resort of a command line: a sentence, not a traceback
        if read_settings().debug:
            raise
        if (refused := _refused_request(error)) is not None:
            _tell(refused, as_json=as_json)
            return code_of(refused)
        unforeseen = HeadraceError(f"unexpected {kind_and_words(error)}", remedy="see more with HEADRACE_DEBUG=1")
        _tell(unforeseen, as_json=as_json)
        return ExitCode.FAILED
    return ExitCode.OK


def _refused_request(error: Exception) -> HeadraceError | None:
    """What was typed makes no request: told as what it is, whichever command made one of it. None for all other errors."""
    from pydantic import ValidationError  # slow to import, as what follows

    if not isinstance(error, ValidationError):
        return None
    from cluster.access.callers import Grant
    from cluster.commands.registry import COMMANDS
    from cluster.findings import first_finding

    if error.title not in {Grant.__name__, *(entry.request.__name__ for entry in COMMANDS.values())}:
        return None
    found = first_finding(error)
    return BadInput(found.words, where=found.field, remedy="give another value: `--help` says what it takes")


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """The commands that these arguments need: one module's where the first word names it, else their names only."""
    app = typer.Typer(
        help=HELP, epilog=EXIT_CODES, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False
    )
    app.callback(help=HELP, epilog=EXIT_CODES)(_root)
    word = next((word for word in arguments if not word.startswith("-")), "")
    if word in ENTRIES:
        _add(app, word, ENTRIES[word])
    else:
        for name, entry in ENTRIES.items():
            app.command(name, help=entry.summary)(_root)
    return app


def _add(app: typer.Typer, word: str, entry: Entry) -> None:
    part: typer.Typer = importlib.import_module(f"headrace.cli.{entry.module}").app
    if entry.group:
        app.add_typer(part, name=word, no_args_is_help=True)
    else:
        # typer makes a group of an app with commands, and the words up, down and build are none.
        app.registered_commands.extend(part.registered_commands)


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"headrace {version('headrace')}\n")
        raise typer.Exit


def _root(
    _version: Annotated[bool, typer.Option("--version", help="Print it.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Nothing to do before a command."""


def _tell(error: HeadraceError, *, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(orjson.dumps({"error": to_wire(error)}).decode() + "\n")
        return
    screen = notes()
    screen.print("error: ", style="bold red", end="")
    screen.print(f"{error.where}: {error.what}" if error.where else error.what, soft_wrap=True)
    if error.remedy:
        screen.print(f"  try: {error.remedy}", soft_wrap=True)
