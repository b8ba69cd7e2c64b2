"""The keys of data subjects in one worker: asked of the controller, opened by this process's keys, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cluster.commands.command import CommandEntry, Message
from cluster.commands.privacy.subjects import BRANCHES, REPLACE, SHOW, ReplaceSubjectKeys, SubjectKeysAsked
from cluster.control_plane import ControlPlane
from cluster.errors import Conflict, HeadraceError, NotFound, Unreachable
from deployments.keys.references import holder_of
from deployments.keys.ring import KeyRing, keys_folder
from deployments.privacy.open_tree import OpenTree, fetching
from deployments.privacy.sealed_keys import open_subject_keys, seal_subject_keys
from deployments.privacy.subject_keys import SubjectKeys, TreeNode, key_below, way_of

T = TypeVar("T")
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

FRESH_S = 15.0  # so long after an erasure a worker may still have the key
STALE_S = 600.0  # while the controller is away; then the stream waits for it
AGAIN_S = 30.0  # so long it is not asked again: an answer that does not come takes seconds, for which the stream stands
MOST_KEYS = 50_000
TRIES = 5  # of who meets others that erase meanwhile


class AskController(Protocol):
    """Has the controller run a command, and blocks until it has answered. Raises what the command raises, and Unreachable."""

    def __call__(self, entry: CommandEntry[Q, A], request: Q, /) -> A:
        """Its answer."""


def asking(control: ControlPlane) -> AskController:
    """By the cluster's own way to the controller. Not where an event loop runs."""

    def ask(entry: CommandEntry[Q, A], request: Q) -> A:
        return entry.answer.model_validate(asyncio.run(control.call(entry.name, request.model_dump(mode="json"))))

    return ask


@dataclass(frozen=True, slots=True)
class _SubjectKey:
    """`key`, None where it is gone, as it follows from `node`."""

    node: tuple[TreeNode, bytes] | None
    key: bytes | None


@dataclass(slots=True)
class _Known:
    number: int
    found: SubjectKeys
    tree: OpenTree
    looked_s: float
    failed_s: float = -AGAIN_S  # when it was asked for in vain
    of_subject: OrderedDict[str, _SubjectKey] = field(default_factory=OrderedDict)
    names: OrderedDict[str, str] = field(default_factory=OrderedDict)


class SubjectBook:
    """Used from one thread, which it blocks where keys are to be had. `actor` is who makes keys, for the audit."""

    def __init__(self, ask: AskController, clock: Callable[[], float] = time.monotonic, *, actor: str = "") -> None:
        self._ask, self._clock, self._actor = ask, clock, actor
        self._known: dict[str, _Known] = {}

    def open(self, keys: str, key: str) -> None:
        """Has the keys of that name, made and sealed for the key-encryption key where there are none.

        Raises as `keys_of`, and as `holder_of` does.
        """
        try:
            self._fresh(keys)
        except NotFound:
            made = SubjectKeys.new()
            document = seal_subject_keys(made, keys, 1, holder_of(key, folder=keys_folder()))
            with suppress(Conflict):  # another worker was first: its keys count
                self._call(REPLACE, ReplaceSubjectKeys(name=keys, number=1, document=document, actor=self._actor))
            self._fresh(keys)

    def pseudonyms(self, keys: str, subjects: Collection[str]) -> dict[str, str]:
        """By subject. Raises as `keys_of` does."""
        known = self._fresh(keys)
        return {each: known.names.get(each) or _kept(known.names, each, known.found.pseudonym(each)) for each in subjects}

    def keys_of(self, keys: str, pseudonyms: Collection[str]) -> dict[str, bytes | None]:
        """By pseudonym: the subject's key; None where it was destroyed. One call to the controller at most, or few.

        Raises NotFound where there are no such keys, LockedKeys where no key of this process opens them, Unreachable where who
        knows is away, BadArtifact where they were changed.
        """
        known = self._fresh(keys)
        for attempt in range(1, TRIES + 1):
            try:
                return _found(known, pseudonyms)
            except Conflict:  # the tree has been replaced since the root was read
                if attempt == TRIES:
                    raise
                known = self._look(keys, known)
        raise AssertionError("it was found, or raised")

    def _fresh(self, keys: str) -> _Known:
        known, now_s = self._known.get(keys), self._clock()
        if known is not None and now_s - known.looked_s < (STALE_S if now_s - known.failed_s < AGAIN_S else FRESH_S):
            return known
        try:
            return self._look(keys, known)
        except Unreachable:
            if known is None or now_s - known.looked_s >= STALE_S:
                raise
            known.failed_s = self._clock()
            return known

    def _look(self, keys: str, known: _Known | None) -> _Known:
        now_s = self._clock()
        view = self._call(SHOW, SubjectKeysAsked(name=keys, known=known.number if known is not None else 0))
        if known is not None and known.number == view.number:
            known.looked_s = now_s
            return known
        found, _ = open_subject_keys(view.document, keys, view.number, KeyRing.from_environment())
        fetch = fetching(lambda asked: self._call(BRANCHES, asked), keys, view.number)
        if known is None or known.found.naming != found.naming:
            made = _Known(view.number, found, OpenTree(keys, found.root, fetch), now_s)
        else:
            tree = OpenTree(keys, found.root, fetch, known.tree)
            made = _Known(view.number, found, tree, now_s, of_subject=_standing(known.of_subject, tree), names=known.names)
        self._known[keys] = made
        return made

    def _call(self, entry: CommandEntry[Q, A], request: Q) -> A:
        try:
            return self._ask(entry, request)
        except NotFound as error:  # of the command: keys that are not there have the number 0
            raise must_hold(error) from error


def _found(known: _Known, pseudonyms: Collection[str]) -> dict[str, bytes | None]:
    found = {each: one.key for each in pseudonyms if (one := known.of_subject.get(each)) is not None}
    wanted = {each: way_of(each) for each in pseudonyms if each not in found}
    if wanted:
        nodes = known.tree.nodes_over(wanted.values())
        for each, way in wanted.items():
            node = nodes[way]
            key = key_below(*node, each) if node is not None else None
            found[each] = _kept(known.of_subject, each, _SubjectKey(node, key)).key
    return found


def _standing(of_subject: OrderedDict[str, _SubjectKey], tree: OpenTree) -> OrderedDict[str, _SubjectKey]:
    """Those whose node the new tree keeps: keys that were destroyed are not even remembered, and others not made again."""
    return OrderedDict((each, one) for each, one in of_subject.items() if tree.open_node_over(way_of(each)) == one.node)


def _kept(of: OrderedDict[str, T], name: str, value: T) -> T:
    of[name] = value
    if len(of) > MOST_KEYS:
        of.popitem(last=False)
    return value


def must_hold(error: HeadraceError) -> Unreachable:
    """Without keys a stream waits: it must not write in clear, and its records are no worse for it."""
    return Unreachable(f"subjects' keys can't be had: {error.what}", where=error.where, remedy=error.remedy)
