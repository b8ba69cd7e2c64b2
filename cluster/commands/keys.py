"""Commands on API keys. Who makes one draws it himself and tells its digest: the secret never comes here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import Field

from cluster.access.callers import EVERYTHING, Grant
from cluster.access.keys import LIVE_MOST, StoredKey, live_of
from cluster.access.policy import Access, Name
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message, Nothing
from cluster.commands.rights import admins, the_clusters
from cluster.errors import BadInput, Conflict, NotFound, Unauthenticated
from cluster.state import AuditEvent, State

HOME = "home"
LINK_USED = "link used"
EVENTS_READ = 1000  # what a store tells of one model
KEYS_MOST = 10_000
LASTS_MOST_S = 100 * 365.25 * 86_400  # a century: when a key ends can be written as a date
_ID, _DIGEST = Field(pattern=r"^[0-9A-Za-z]{10}$"), Field(pattern=r"^[0-9a-f]{64}$")


class CreateKey(Command):
    """Makes a key known, by the id and the SHA-256 of its text. It ends after `lasts_s`; None: never.

    Beside its own grants it has those that the Access document gives to keys of its name.
    """

    name: Name
    id: str = _ID
    digest: str = _DIGEST
    grants: tuple[Grant, ...] = Field(default=(), max_length=100)
    lasts_s: float | None = Field(default=None, gt=0, le=LASTS_MOST_S)


class RotateKey(Command):
    """Makes another key of the same name and grants known. The old one ends after `grace_s`, and those before it at once. The new
    one ends after `lasts_s`; None: after as long as the old one was made for."""

    name: Name
    id: str = _ID
    digest: str = _DIGEST
    grace_s: float = Field(default=86_400.0, ge=0, le=LASTS_MOST_S)
    lasts_s: float | None = Field(default=None, gt=0, le=LASTS_MOST_S)


class RevokeKey(Command):
    """Ends all keys of a name at once, or the one of an id."""

    name: str = ""
    id: str = ""


class AdmitHome(Command):
    """Makes the key of a home known: whoever started what runs here may do everything."""

    id: str = _ID
    digest: str = _DIGEST


class UseLink(Command):
    """Somebody opens a link that logs in as who has a key. `code` is drawn for each link, `lasts_s` how long one lasts."""

    id: str = _ID
    code: str = Field(pattern=r"^[0-9a-f]{16,64}$")
    lasts_s: float = Field(gt=0, le=86_400)


class KeyView(Message):
    """One key, without what would let anybody use it. `lives`: it may be used now."""

    id: str
    name: str
    grants: tuple[Grant, ...]
    created_s: float
    expires_s: float | None
    by: str
    home: bool
    lives: bool


class KeyList(Message):
    """All keys, by name and age."""

    keys: tuple[KeyView, ...]


class AccessView(Message):
    """The Access document as it was applied; None where there is none."""

    access: Access | None


def _view(key: StoredKey, now_s: float) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        grants=key.grants,
        created_s=key.created_s,
        expires_s=key.expires_s,
        by=key.by,
        home=key.home,
        lives=key.lives(now_s),
    )


def _create(at: Context, request: CreateKey) -> CommandResult:
    if request.name == HOME:
        raise BadInput(f"{HOME!r} is the name of the keys that `headrace up` makes", where="name", remedy="choose another")
    keys = _living(at)
    if live_of(keys.values(), request.name, at.now_s):
        raise Conflict(
            "there is a key of this name",
            where=f"key {request.name}",
            remedy=f"`headrace key rotate {request.name}`, or revoke it",
        )
    key = StoredKey(request.id, request.name, request.digest, request.grants, at.now_s, _end(at, request.lasts_s), at.actor)
    return _told(at, _adding(keys, key), key, "key created")


def _rotate(at: Context, request: RotateKey) -> CommandResult:
    keys = _living(at)
    live = [key for key in live_of(keys.values(), request.name, at.now_s) if not key.home]
    if not live:
        raise NotFound("there is no key of this name", where=f"key {request.name}", remedy="see `headrace key ls`")
    ends_s = at.now_s + request.grace_s
    for old in live[: 1 - LIVE_MOST]:
        del keys[old.id]
    newest = live[-1]
    keys[newest.id] = replace(newest, expires_s=min(ends_s, newest.expires_s or ends_s))
    lasts_s = newest.lasts_s if request.lasts_s is None else request.lasts_s
    key = StoredKey(request.id, newest.name, request.digest, newest.grants, at.now_s, _end(at, lasts_s), at.actor)
    return _told(at, _adding(keys, key), key, "key rotated")


def _revoke(at: Context, request: RevokeKey) -> CommandResult:
    keys = _living(at)
    if bool(request.name) == bool(request.id):
        raise BadInput("either the name of keys or the id of one says which", where="key.revoke", remedy="give one of the two")
    if request.id:
        gone = [key for key in keys.values() if key.id == request.id]
    else:
        gone = [key for key in keys.values() if key.name == request.name and not key.home]
    if not gone:
        which = f"key {request.name or request.id}"
        raise NotFound("there is no such key", where=which, remedy="see `headrace key ls`; one of a home is revoked by its id")
    for key in gone:
        del keys[key.id]
    events = tuple(_event(at, key, "key revoked") for key in gone)
    return CommandResult(replace(at.state, keys=keys), KeyList(keys=tuple(_view(key, at.now_s) for key in gone)), events)


def _admit(at: Context, request: AdmitHome) -> CommandResult:
    known = at.state.keys.get(request.id)
    if known is not None and known.digest == request.digest:
        return CommandResult(at.state, Nothing())
    key = StoredKey(request.id, HOME, request.digest, EVERYTHING, at.now_s, None, at.actor, home=True)
    return CommandResult(replace(at.state, keys=_adding(_living(at), key)), Nothing(), (_event(at, key, "home admitted"),))


def _use_link(at: Context, request: UseLink) -> CommandResult:
    """The audit is what remembers links that were used: it is read as far back as one may be good."""
    key, told, since_s = at.state.keys.get(request.id), at.audit(""), at.now_s - request.lasts_s
    used = {event.detail.get("code") for event in told if event.event == LINK_USED and event.at_s > since_s}
    unknown = len(told) >= EVENTS_READ and told[0].at_s > since_s  # so much happened that some of them were not read
    if key is None or not key.lives(at.now_s) or request.code in used or unknown:
        remedy = "run `headrace up` again, which prints a new one, or log in with a key"
        raise Unauthenticated("this link was used, or its ten minutes are over", where="link", remedy=remedy)
    detail = {"key": key.name, "id": key.id, "code": request.code}
    return CommandResult(at.state, Nothing(), (AuditEvent(at.now_s, "", None, LINK_USED, at.actor, detail),))


def _list(at: Context, _: Nothing) -> CommandResult:
    keys = sorted(at.state.keys.values(), key=lambda key: (key.name, key.created_s))
    return CommandResult(at.state, KeyList(keys=tuple(_view(key, at.now_s) for key in keys)))


def _show(at: Context, _: Nothing) -> CommandResult:
    return CommandResult(at.state, AccessView(access=at.state.access))


def _living(at: Context) -> dict[str, StoredKey]:
    """What is kept: those that have ended are forgotten with the next change."""
    return {key.id: key for key in at.state.keys.values() if key.lives(at.now_s)}


def _adding(keys: Mapping[str, StoredKey], key: StoredKey) -> dict[str, StoredKey]:
    if key.id in keys:
        raise Conflict("there is a key of this id", where=f"key {key.id}", remedy="draw another one")
    if len(keys) >= KEYS_MOST and not key.home:  # which is the way back in
        raise Conflict(f"there are {KEYS_MOST} keys", where=f"key {key.name}", remedy="revoke some, or let an issuer make tokens")
    return {**keys, key.id: key}


def _end(at: Context, lasts_s: float | None) -> float | None:
    return None if lasts_s is None else at.now_s + lasts_s


def _told(at: Context, keys: Mapping[str, StoredKey], key: StoredKey, event: str) -> CommandResult:
    state: State = replace(at.state, keys=keys)
    return CommandResult(state, _view(key, at.now_s), (_event(at, key, event),))


def _event(at: Context, key: StoredKey, event: str) -> AuditEvent:
    detail = {"key": key.name, "id": key.id, "grants": [grant.model_dump(mode="json") for grant in key.grants]}
    return AuditEvent(at.now_s, "", None, event, at.actor, {**detail, "expires_s": key.expires_s})


CREATE = CommandEntry("key.create", CreateKey, KeyView, _create, "Makes an API key known by its digest", admins)
LIST = CommandEntry("key.list", Nothing, KeyList, _list, "All API keys, without their secrets", admins, looks=True)
ROTATE = CommandEntry(
    "key.rotate", RotateKey, KeyView, _rotate, "Puts another key in place of one, which lives on a while", admins
)
REVOKE = CommandEntry("key.revoke", RevokeKey, KeyList, _revoke, "Ends keys at once", admins)
HOME_ADMIT = CommandEntry("key.home", AdmitHome, Nothing, _admit, "Makes the key of a home known", the_clusters)
ACCESS = CommandEntry("access.show", Nothing, AccessView, _show, "The Access document", admins, looks=True)
LINK = CommandEntry("key.link", UseLink, Nothing, _use_link, "Takes the code of a link, once", the_clusters)
COMMANDS = (CREATE, LIST, ROTATE, REVOKE, HOME_ADMIT, LINK, ACCESS)
