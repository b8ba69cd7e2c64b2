"""The keys of data subjects in one worker: asked of the controller, opened by this process's keys, and kept for a minute."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from cluster.commands.privacy.subjects import REPLACE, SHOW, ReplaceSubjectKeys, SubjectKeysAsked, SubjectKeysView
from cluster.control_plane import ControlPlane
from cluster.errors import Conflict, HeadraceError, NotFound, Unreachable
from deployments.keys.references import holder_of
from deployments.keys.ring import KeyRing, keys_folder
from deployments.privacy.sealed_keys import open_subject_keys, seal_subject_keys
from deployments.privacy.subject_keys import SubjectKeys

T = TypeVar("T")

FRESH_S = 60.0  # so long after an erasure a worker may still have the key
STALE_S = 600.0  # while the controller is away; then the stream waits for it
AGAIN_S = 30.0  # so long it is not asked again: an answer that does not come takes seconds, for which the stream stands
MOST_KEYS = 50_000


@dataclass(slots=True)
class _Known:
    number: int
    found: SubjectKeys
    looked_s: float
    asked_s: float  # or asked for in vain
    of_subject: OrderedDict[str, bytes | None]
    names: OrderedDict[str, str]


class SubjectBook:
    """Used from one thread, which it blocks where keys are to be had."""

    def __init__(self, control: ControlPlane, clock: Callable[[], float] = time.monotonic) -> None:
        self._control, self._clock = control, clock
        self._known: dict[str, _Known] = {}

    def open(self, keys: str, key: str) -> None:
        """Has the keys of that name, made and sealed for the key-encryption key where there are none.

        Raises as `key_of`, and as `holder_of` does.
        """
        try:
            self._fresh(keys)
        except NotFound:
            made = SubjectKeys.new()
            document = seal_subject_keys(made, keys, 1, holder_of(key, folder=keys_folder()))
            with suppress(Conflict):  # another worker was first: its keys count
                self._call(REPLACE.name, ReplaceSubjectKeys(name=keys, number=1, document=document))
            self._fresh(keys)

    def pseudonym(self, keys: str, subject: str) -> str:
        """Raises as `key_of` does."""
        known = self._fresh(keys)
        found = known.names.get(subject)
        if found is None:
            found = _kept(known.names, subject, known.found.pseudonym(subject))
        return found

    def key_of(self, keys: str, pseudonym: str) -> bytes | None:
        """The subject's key; None where it was destroyed.

        Raises NotFound where there are no such keys, Forbidden where no key of this process opens them, Unreachable where who
        knows is away.
        """
        known = self._fresh(keys)
        if pseudonym in known.of_subject:
            return known.of_subject[pseudonym]
        return _kept(known.of_subject, pseudonym, known.found.key_of(pseudonym))

    def _fresh(self, keys: str) -> _Known:
        known, now_s = self._known.get(keys), self._clock()
        if known is not None and now_s - known.looked_s < (STALE_S if now_s - known.asked_s < AGAIN_S else FRESH_S):
            return known
        try:
            asked = SubjectKeysAsked(name=keys, known=known.number if known is not None else 0)
            view = SubjectKeysView.model_validate(self._call(SHOW.name, asked))
            if known is not None and known.number == view.number:
                known.looked_s = known.asked_s = now_s
                return known
            found, _ = open_subject_keys(view.document, keys, view.number, KeyRing.from_environment())
        except Unreachable:
            if known is None or now_s - known.looked_s >= STALE_S:
                raise
            known.asked_s = self._clock()
            return known
        made = self._known[keys] = _Known(view.number, found, now_s, now_s, OrderedDict(), OrderedDict())
        return made

    def _call(self, command: str, request: SubjectKeysAsked | ReplaceSubjectKeys) -> object:
        try:
            return asyncio.run(self._control.call(command, request.model_dump(mode="json")))
        except NotFound as error:  # of the command: keys that are not there have the number 0
            raise must_hold(error) from error


def _kept(of: OrderedDict[str, T], name: str, value: T) -> T:
    of[name] = value
    if len(of) > MOST_KEYS:
        of.popitem(last=False)
    return value


def must_hold(error: HeadraceError) -> Unreachable:
    """Without keys a stream waits: it must not write in clear, and its records are no worse for it."""
    return Unreachable(f"subjects' keys can't be had: {error.what}", where=error.where, remedy=error.remedy)
