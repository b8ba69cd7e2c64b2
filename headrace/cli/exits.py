"""Exit codes: one a kind of failure, the same for every command."""

from __future__ import annotations

from enum import IntEnum

from cluster import errors


class ExitCode(IntEnum):
    """What a script may test for."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    REFUSED = 6
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed",
    ExitCode.BAD_INPUT: "bad usage, file or value",
    ExitCode.NOT_FOUND: "no such file, model, stream or batch",
    ExitCode.CONFLICT: "exists, is busy, or the state forbids it now",
    ExitCode.UNAVAILABLE: "nothing running, unreachable, or no capacity: retry later",
    ExitCode.REFUSED: "no right to do this: see HEADRACE_TOKEN",
    ExitCode.INTERRUPTED: "Ctrl-C",
}


def code_of(error: errors.HeadraceError) -> ExitCode:
    """The exit code of an error."""
    match error:
        case errors.BadInput():
            return ExitCode.BAD_INPUT
        case errors.NotFound():
            return ExitCode.NOT_FOUND
        case errors.Conflict():
            return ExitCode.CONFLICT
        case errors.Unreachable() | errors.NoCapacity():
            return ExitCode.UNAVAILABLE
        case errors.Unauthenticated() | errors.Forbidden():
            return ExitCode.REFUSED
        case _:
            return ExitCode.FAILED
