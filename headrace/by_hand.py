"""What a command does beside the controller stands in the audit all the same: that it begins, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.commands.watch.by_hand import (
    KEYS_MOST,
    TELL,
    TO_MOST,
    USES,
    VERSIONS_MOST,
    WORD_MOST,
    ActStage,
    HandAct,
    TellAct,
)
from cluster.errors import HeadraceError
from headrace.client import ControlClient
from headrace.local.home import Settings, read_settings, without_password
from headrace.local.run_state import load_run

NOT_TOLD = "this stands in no audit: no service is known here (HEADRACE_URL, or a home with one that runs)"
Say = Callable[[str], None]


class Act:
    """What is being done; `came_to` adds to what is told of its end."""

    def __init__(self) -> None:
        self.end: dict[str, Any] = {}

    def came_to(self, **told: Any) -> None:
        """Fields of TellAct, such as the rows that were scored."""
        self.end |= told


@contextmanager
def recorded(act: HandAct, say: Say, settings: Settings | None = None, **about: Any) -> Iterator[Act]:
    """Has it recorded that the block begins, and how it ended. `about` are fields of TellAct; `say` tells what can't be recorded.

    Raises what `TELL` raises, and Unreachable, before anything is done: what can't be recorded is not begun, unless it only uses
    a model. Where no service is known there is no audit. Both are said.
    """
    known, doing = settings or read_settings(), Act()
    if "to" in about:
        about["to"] = without_password(about["to"])
    if not has_service(known):
        say(NOT_TOLD)
        yield doing
        return
    try:
        _tell(known, _told(act, ActStage.BEGUN, about))
    except HeadraceError as error:
        if act not in USES:
            raise
        say(f"this does not stand in the audit: {error.what}")
        yield doing
        return
    try:
        yield doing
    except BaseException as error:
        reason = error.kind if isinstance(error, HeadraceError) else type(error).__name__
        _tell_end(known, _told(act, ActStage.FAILED, {**about, **doing.end, "reason": reason}), say)
        raise
    _tell_end(known, _told(act, ActStage.DONE, {**about, **doing.end}), say)


def has_service(settings: Settings) -> bool:
    """Whether a service is named, or the home has one that was not ended by `headrace down`. Raises Conflict."""
    if settings.url:
        return True
    run = load_run(settings.home)
    return run is not None and run.addresses.http is not None


def _told(act: HandAct, stage: ActStage, about: Mapping[str, Any]) -> TellAct:
    """What is longer than a record may be is cut, such as the id of a key in a service: no act ends by that."""
    most = {"to": TO_MOST, "versions": VERSIONS_MOST, "keys": KEYS_MOST}
    cut: dict[str, Any] = {
        name: value[: most.get(name, WORD_MOST)] if isinstance(value, Sequence) else value for name, value in about.items()
    }
    if "keys" in cut:
        cut["keys"] = tuple(key[:WORD_MOST] for key in cut["keys"])
    return TellAct(act=act, stage=stage, **cut)


def _tell(settings: Settings, told: TellAct) -> None:
    with ControlClient.from_environment(settings) as client:
        client.call(TELL, told)


def _tell_end(settings: Settings, told: TellAct, say: Say) -> None:
    """It is done, or was not: that this can't be told is no reason to hide it, and the audit has that it was begun."""
    try:
        _tell(settings, told)
    except HeadraceError as error:
        say(f"the audit has that this was begun, and not how it ended: {error.what}")
