"""What command lines do beside the controller, as with keys, artifacts and registries: told to the audit by who does it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Nothing
from cluster.commands.rights import Asks, RoleAsked
from cluster.errors import OverQuota, Unauthenticated
from cluster.state import AuditEvent, State

TOLD_MOST = 60  # a minute, by a caller who may move no model; others write records as they like, by what they do
MOVING = frozenset({Role.OPERATE, Role.DEPLOY, Role.ADMIN})
WORD_MOST, TO_MOST, VERSIONS_MOST, KEYS_MOST = 200, 500, 1000, 100
Word = Annotated[str, Field(max_length=WORD_MOST)]


class HandAct(StrEnum):
    """What is done; the audit's event has the same name."""

    SEALING_KEY = "sealing.new"
    SIGNING_KEY = "signing.new"
    REWRAP = "sealing.rewrap"
    SIGN = "model.sign"
    SHOW_SEALED = "model.show"
    """A sealed version's report is written in clear."""
    PUSH = "model.push"
    IMAGE = "image.build"
    BATCH = "batch.run by hand"
    SEEK = "stream.seek by hand"
    EXPLAIN = "explain by hand"
    PAYLOADS = "payloads.replay"
    QUARANTINE = "batch.quarantine by hand"
    """Rows that a run left out are shown."""


USES = frozenset({HandAct.BATCH, HandAct.EXPLAIN, HandAct.PAYLOADS})
"""These use a model: they go on where they can't be recorded."""


class ActStage(StrEnum):
    """How far it is. What was begun and never ended was interrupted, and may have done a part."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


class TellAct(Command):
    """Somebody begins to do this, or has ended it. What it is done to: a `model` and its `versions`, or an artifact by its
    `digest`, or a thing by its `name`; `keys` are ids of keys, `to` is where something goes, `rows` how many were scored, and
    `reason` the kind of what failed."""

    act: HandAct
    stage: ActStage
    model: Word = ""
    versions: tuple[int, ...] = Field(default=(), max_length=VERSIONS_MOST)
    digest: Word = ""
    name: Word = ""
    keys: tuple[Word, ...] = Field(default=(), max_length=KEYS_MOST)
    to: str = Field(default="", max_length=TO_MOST)
    rows: int | None = Field(default=None, ge=0)
    reason: Word = ""


def _tell(at: Context, request: TellAct) -> CommandResult:
    if at.caller.anonymous:  # who is nobody could write records without end
        raise Unauthenticated(
            "what is done by hand is recorded, and nobody said who he is",
            where="access",
            remedy="set HEADRACE_TOKEN to a key, or run it where `headrace up` was run, with its HEADRACE_HOME",
        )
    moves = any(MOVING & {*grant.roles} for grant in at.caller.grants)
    if not moves and at.act_told(at.caller.name) > TOLD_MOST:
        raise OverQuota(
            f"{at.caller.name} has told of {TOLD_MOST} acts in this minute",
            where="act.tell",
            remedy="go on in a minute, or with a key that may operate or deploy",
        )
    said = request.model_dump(mode="json", exclude={"act", "model", "actor"})
    detail: dict[str, Any] = {name: value for name, value in said.items() if value not in ("", None, [])}
    return CommandResult(at.state, Nothing(), (AuditEvent(at.now_s, request.model, None, request.act.value, at.actor, detail),))


def _asks(_: State, request: TellAct) -> Asks:
    """To use the model, or to move it: to tell is no right of its own."""
    return (RoleAsked((Role.SCORE, Role.OPERATE, Role.DEPLOY), request.model),) if request.model else ()


TELL = CommandEntry("act.tell", TellAct, Nothing, _tell, "Says what somebody does by hand, beside the controller", _asks)
COMMANDS = (TELL,)
