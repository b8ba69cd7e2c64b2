"""The page of all commands, written from their registry by `make reference`."""

from __future__ import annotations

import sys

from pydantic import BaseModel

from cluster.commands.registry import COMMANDS

HEADER = """# Commands of the control API

Written from the code by `make reference`; a test fails when it is out of date.

`POST /control/COMMAND` at a gateway's address, with `Content-Type: application/json`; a gateway's `/openapi.json` has every
field, under the names that stand here. The command line and `headrace.client.ControlClient` ask nothing else. What is refused
comes back as `{"error": {"kind": ..., "what": ..., "where": ..., "remedy": ...}}`. A command that only looks may be asked
again whatever became of the first time; each other one leaves an event that says who asked (`actor`), in `headrace rollout
history MODEL`.

| command | what it does | asked with | answers | |
|---|---|---|---|---|
"""


def commands_page() -> str:
    """The whole page, in Markdown."""
    rows = (
        f"| `{name}` | {entry.summary} | {_fields(entry.request)} | `{entry.answer.__name__}` |"
        f" {'only looks' if entry.looks else '' if entry.told else 'leaves no event'} |\n"
        for name, entry in COMMANDS.items()
    )
    return HEADER + "".join(rows)


def _fields(shape: type[BaseModel]) -> str:
    """The names of its fields; those that may be left out in brackets."""
    fields = ((name, field) for name, field in shape.model_fields.items() if name != "actor")
    return ", ".join(f"`{name}`" if field.is_required() else f"[`{name}`]" for name, field in fields) or "nothing"


if __name__ == "__main__":
    sys.stdout.write(commands_page())
