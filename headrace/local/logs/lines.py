"""A line of a log in either form. Pure."""

from __future__ import annotations

from typing import Any

import orjson

_FIRST = ("time", "level", "logger", "message", "exception")


def fields_of(line: str) -> dict[str, Any] | None:
    """What a line says that was written as JSON; None for any other."""
    if not line.startswith("{"):
        return None
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and "message" in found else None


def in_words(line: str) -> str:
    """The line as a person reads it, whichever form it was written in."""
    fields = fields_of(line)
    if fields is None:
        return line
    time, level, logger, message, exception = (str(fields.get(name, "")) for name in _FIRST)
    more = "".join(f" {name}={value}" for name, value in fields.items() if name not in _FIRST)
    said = f"{time} {level.upper()} {logger}: {message}{more}"
    return f"{said}\n{exception}" if exception else said
