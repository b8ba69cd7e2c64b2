"""Commands on the keys of data subjects. They come here sealed, and subjects as pseudonyms: the controller can open neither."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message
from cluster.commands.rights import admins
from cluster.errors import Conflict
from cluster.state import AuditEvent, StoredSubjectKeys

_NAME = Field(pattern=r"^[a-z0-9-]{1,63}$")
NONE = StoredSubjectKeys(0, "")
MOST_BYTES = 64 << 20  # of some ten thousand erased subjects


class SubjectKeysAsked(Message):
    """Which keys. To who has those of number `known`, and they stand, they are not told again."""

    name: str = _NAME
    known: int = Field(default=0, ge=0)


class SubjectKeysView(Message):
    """Keys as they stand. `number` rises with each that replaces them, and is 0 where there are none; `document` is
    sealed."""

    name: str
    number: int
    document: str


class ReplaceSubjectKeys(Command):
    """Puts keys in place of those of the number before; of number 1 where there are none. `erased` is whose key is gone from
    them, a pseudonym; empty: nobody's."""

    name: str = _NAME
    number: int = Field(ge=1)
    document: str = Field(min_length=1, max_length=MOST_BYTES)
    erased: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")


def _show(at: Context, request: SubjectKeysAsked) -> CommandResult:
    known = at.state.subjects.get(request.name, NONE)
    document = known.document if known.number != request.known else ""
    return CommandResult(at.state, SubjectKeysView(name=request.name, number=known.number, document=document))


def _replace(at: Context, request: ReplaceSubjectKeys) -> CommandResult:
    known = at.state.subjects.get(request.name, NONE)
    if request.number != known.number + 1:
        what = "somebody has replaced them meanwhile"
        raise Conflict(what, where=f"subject keys {request.name}", remedy="look at them again, and try again")
    subjects = {**at.state.subjects, request.name: StoredSubjectKeys(request.number, request.document)}
    event, detail = "subject keys made", {"keys": request.name, "number": request.number}
    if request.erased:
        event, detail = "subject erased", detail | {"subject": request.erased}
    told = AuditEvent(at.now_s, "", None, event, at.actor, detail)
    view = SubjectKeysView(name=request.name, number=request.number, document="")
    return CommandResult(replace(at.state, subjects=subjects), view, (told,))


SHOW = CommandEntry(
    "subject-keys.show", SubjectKeysAsked, SubjectKeysView, _show, "The keys of data subjects, sealed", admins, looks=True
)
REPLACE = CommandEntry(
    "subject-keys.replace",
    ReplaceSubjectKeys,
    SubjectKeysView,
    _replace,
    "Puts other keys of data subjects in their place, without one that is erased",
    admins,
)
COMMANDS = (SHOW, REPLACE)
