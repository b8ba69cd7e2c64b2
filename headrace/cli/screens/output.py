"""What commands print: answers on standard output (tables, or JSON for scripts), progress and errors on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console, RenderableType

if TYPE_CHECKING:
    from pydantic import BaseModel

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]

# A file or a pipe has no width: one that tables seldom have to be squeezed into.
PIPED_COLUMNS = 180
# Messages and paths hold what rich would take for markup: it would leave `[topic-0]` out, and fail at `[/data]`.
AS_WRITTEN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}


def answers() -> Console:
    """Where answers go."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(**AS_WRITTEN, width=None if told else PIPED_COLUMNS)


def notes() -> Console:
    """Where progress and remarks go."""
    return Console(**AS_WRITTEN, stderr=True)


def remark(line: str) -> None:
    """A line of a remark."""
    notes().print(line, soft_wrap=True)


def print_json(answer: BaseModel | dict[str, Any]) -> None:
    """One JSON object in one line."""
    data = answer if isinstance(answer, dict) else answer.model_dump(mode="json")
    sys.stdout.write(orjson.dumps(data).decode() + "\n")
    sys.stdout.flush()


def many(number: int, word: str) -> str:
    """So many of what the word names: `1 node`, `2 nodes`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def age(seconds: float) -> str:
    """A duration in the two units that matter, e.g. `3 m 20 s`."""
    whole = max(0, int(seconds))
    for name, size, lower, step in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // step} {lower}"
    return f"{whole} s"


def watch_json(look: Callable[[], tuple[BaseModel, bool]], *, every_s: float = 0.5) -> None:
    """Prints what `look` returns as one JSON object a line, a line for each change, until it says that this was the last."""
    printed: BaseModel | None = None
    while True:
        seen, last = look()
        if seen != printed:
            print_json(seen)
            printed = seen
        if last:
            return
        time.sleep(every_s)  # the gateway has no call that waits for a change


def watch(look: Callable[[], tuple[RenderableType, bool]], *, every_s: float = 0.5) -> None:
    """Shows what `look` returns, anew every so often, until it says that this was the last. In place on a terminal."""
    from rich.live import Live  # slow to import, and few commands watch

    screen = answers()
    shown, last = look()
    with Live(shown, console=screen, auto_refresh=False) as live:
        while not last:
            time.sleep(every_s)  # the gateway has no call that waits for a change
            shown, last = look()
            live.update(shown, refresh=True)
