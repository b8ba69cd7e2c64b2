"""Erasing a data subject: its key is taken out of the keys here, where they can be opened, and the controller puts the rest in
their place."""

from __future__ import annotations

from collections.abc import Callable

from cluster.commands.privacy.subjects import ReplaceSubjectKeys, SubjectKeysView
from cluster.errors import Conflict
from deployments.keys.port import KeyHolder
from deployments.keys.ring import KeyRing
from deployments.privacy.sealed_keys import open_subject_keys, seal_subject_keys

TRIES = 5


def erase(
    subject: str,
    keys: str,
    ring: KeyRing,
    show: Callable[[str], SubjectKeysView],
    put: Callable[[ReplaceSubjectKeys], object],
    seal_for: KeyHolder | None = None,
) -> str:
    """Destroys the subject's key among those of that name; returns its pseudonym, under which the audit has it. Whoever had no
    key loses what it would have got.

    `show` and `put` ask the controller. The keys that are left are sealed for `seal_for`, else for whom they were.

    Raises NotFound where there are no such keys, Forbidden where none of the ring opens them, Conflict where others replace them
    again and again, Unreachable.
    """
    for attempt in range(1, TRIES + 1):
        view = show(keys)
        found, holder = open_subject_keys(view.document, keys, view.number, ring)
        pseudonym = found.pseudonym(subject)
        number = view.number + 1
        document = seal_subject_keys(found.without(pseudonym), keys, number, seal_for or holder)
        try:
            put(ReplaceSubjectKeys(name=keys, number=number, document=document, erased=pseudonym))
        except Conflict:
            if attempt == TRIES:
                raise
        else:
            return pseudonym
    raise AssertionError("it was put, or raised")
