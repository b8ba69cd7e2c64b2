"""Commands on the keys of data subjects. They come here sealed, and subjects as pseudonyms: the controller can open neither."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message
from cluster.commands.rights import admins
from cluster.errors import Conflict
from cluster.section import Base64Bytes
from cluster.state import AuditEvent, StoredSubjectKeys

_NAME = Field(pattern=r"^[a-z0-9-]{1,63}$")
NONE = StoredSubjectKeys(0, "")
MOST_ASKED = 1000
MOST_ERASED = 1000
MOST_CHANGED = 100_000  # keys of before there were branches have all of theirs made at once
MOST_BRANCH_BYTES = 1 << 20  # a branch has some 10 kB

BranchName = Annotated[str, Field(pattern=r"^[0-9]{1,2}/[0-9a-f]{1,16}$")]


class SubjectKeysAsked(Message):
    """Which keys. To who has those of number `known`, and they stand, they are not told again."""

    name: str = _NAME
    known: int = Field(default=0, ge=0)


class SubjectKeysView(Message):
    """Keys as they stand. `number` rises with each that replaces them, and is 0 where there are none; `document` is the root of
    their tree, sealed."""

    name: str
    number: int
    document: str


class SubjectBranchesAsked(Message):
    """Which branches of the keys of that number."""

    name: str = _NAME
    number: int = Field(ge=1)
    branches: tuple[BranchName, ...] = Field(max_length=MOST_ASKED)


class SubjectBranches(Message):
    """Those that there are, sealed, by their names."""

    branches: dict[str, Base64Bytes]


class ReplaceSubjectKeys(Command):
    """Puts keys in place of those of the number before; of number 1 where there are none. `erased` are whose keys are gone from
    them, pseudonyms; `branches` those that have changed."""

    name: str = _NAME
    number: int = Field(ge=1)
    document: str = Field(min_length=1, max_length=MOST_BRANCH_BYTES)
    erased: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")], ...] = Field(default=(), max_length=MOST_ERASED)
    branches: dict[BranchName, Annotated[Base64Bytes, Field(max_length=MOST_BRANCH_BYTES)]] = Field(
        default={}, max_length=MOST_CHANGED
    )


def _show(at: Context, request: SubjectKeysAsked) -> CommandResult:
    known = at.state.subjects.get(request.name, NONE)
    document = known.document if known.number != request.known else ""
    return CommandResult(at.state, SubjectKeysView(name=request.name, number=known.number, document=document))


def _branches(at: Context, request: SubjectBranchesAsked) -> CommandResult:
    if request.number != at.state.subjects.get(request.name, NONE).number:
        raise _replaced(request.name)
    stored = at.branches([_stored_as(request.name, branch) for branch in request.branches])
    found = {branch: sealed for branch in request.branches if (sealed := stored.get(_stored_as(request.name, branch)))}
    return CommandResult(at.state, SubjectBranches(branches=found))


def _replace(at: Context, request: ReplaceSubjectKeys) -> CommandResult:
    known = at.state.subjects.get(request.name, NONE)
    if request.number != known.number + 1:
        raise _replaced(request.name)
    subjects = {**at.state.subjects, request.name: StoredSubjectKeys(request.number, request.document)}
    detail = {"keys": request.name, "number": request.number}
    told = [AuditEvent(at.now_s, "", None, "subject erased", at.actor, detail | {"subject": each}) for each in request.erased]
    if not told:
        told = [AuditEvent(at.now_s, "", None, "subject keys made", at.actor, detail)]
    branches = {_stored_as(request.name, branch): sealed for branch, sealed in request.branches.items()}
    view = SubjectKeysView(name=request.name, number=request.number, document="")
    return CommandResult(replace(at.state, subjects=subjects), view, tuple(told), branches=branches)


def _stored_as(name: str, branch: str) -> str:
    return f"{name}/{branch}"


def _replaced(name: str) -> Conflict:
    what = "somebody has replaced them meanwhile"
    return Conflict(what, where=f"subject keys {name}", remedy="look at them again, and try again")


SHOW = CommandEntry(
    "subject-keys.show", SubjectKeysAsked, SubjectKeysView, _show, "The keys of data subjects, sealed", admins, looks=True
)
BRANCHES = CommandEntry(
    "subject-keys.branches",
    SubjectBranchesAsked,
    SubjectBranches,
    _branches,
    "Branches of the tree of data subjects' keys, sealed",
    admins,
    looks=True,
)
REPLACE = CommandEntry(
    "subject-keys.replace",
    ReplaceSubjectKeys,
    SubjectKeysView,
    _replace,
    "Puts other keys of data subjects in their place, without those that are erased",
    admins,
)
COMMANDS = (SHOW, BRANCHES, REPLACE)
