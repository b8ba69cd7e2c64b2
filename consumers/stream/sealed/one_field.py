"""Encrypted fields, each opened or with why not. Pure: who has the keys hands them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson
import simdjson

from cluster.errors import BadInput, HeadraceError
from deployments.privacy.fields import open_field, owner_of
from deployments.privacy.sealed_keys import LockedKeys

KeysOfOne = Mapping[str, bytes | None]
KeysByName = Mapping[str, KeysOfOne | LockedKeys]
"""By the names of subjects' keys and pseudonyms: a subject's key, None where it was destroyed; or why they are locked."""


class FieldState(StrEnum):
    """What became of a field that was to be opened."""

    OPENED = "opened"
    IN_CLEAR = "in_clear"
    """It is not encrypted."""
    UNKNOWN_KEYS = "unknown_keys"
    """The subjects' keys that it names are not known here."""
    LOCKED = "locked"
    """The subjects' keys are known, and this process has not what opens them."""
    ERASED = "erased"
    """Its subject was erased: nothing opens it any more."""
    CHANGED = "changed"
    """It was changed, or moved here from another topic, field or cluster."""
    NO_JSON = "no_json"
    """It opens, and is no JSON: Headrace has not encrypted it."""


@dataclass(frozen=True, slots=True)
class OpenedField:
    """`json` is what was encrypted, where it opened, and stands in no repr; `error` is why it did not, without any value."""

    state: FieldState
    json: bytes = field(default=b"", repr=False)
    error: HeadraceError | None = None

    @property
    def value(self) -> Any:
        """What was encrypted. Raises `error` where it did not open: a gap is never taken for a value."""
        if self.error is not None:
            raise self.error
        return orjson.loads(self.json)


def owners_in(values: Iterable[object]) -> dict[str, set[str]]:
    """The pseudonyms that the encrypted ones among the values name, by the names of their keys."""
    owners: dict[str, set[str]] = {}
    for name, pseudonym in filter(None, map(owner_of, values)):
        owners.setdefault(name, set()).add(pseudonym)
    return owners


def opened_field(text: object, keys: KeysByName, *, topic: str, name: str, parser: simdjson.Parser) -> OpenedField:
    """The field `name` of a record of the topic. `keys` holds all pseudonyms of the names that are known."""
    owner = owner_of(text)
    if owner is None or not isinstance(text, str):
        remedy = "encrypt it as a stream with `encrypt` does, or take it out of what is opened (`decrypt`)"
        return _unopened(FieldState.IN_CLEAR, "it is not encrypted", name, remedy)
    of_name = keys.get(owner[0])
    if of_name is None:
        remedy = "read it where it was encrypted, or restore the store"
        return _unopened(FieldState.UNKNOWN_KEYS, "it is under keys that are not known here", name, remedy)
    if isinstance(of_name, LockedKeys):
        return OpenedField(FieldState.LOCKED, error=copy(of_name))
    key = of_name[owner[1]]
    if key is None:
        remedy = "none; a stream with `erased: null` takes it for null"
        return _unopened(FieldState.ERASED, "its subject was erased: nothing opens it", name, remedy)
    try:
        value = open_field(text, key, topic=topic, field=name)
    except BadInput as error:
        return OpenedField(FieldState.CHANGED, error=error)
    try:
        parser.parse(value)  # a whole value of JSON, so that it can be put in its place as it is
    except ValueError:
        return _unopened(FieldState.NO_JSON, "what was encrypted is no JSON", name, "encrypt the field's value as JSON")
    return OpenedField(FieldState.OPENED, value)


def _unopened(state: FieldState, what: str, name: str, remedy: str) -> OpenedField:
    return OpenedField(state, error=BadInput(what, where=name, remedy=remedy))
