"""Erasing data subjects: their keys are taken out of the tree here, where it can be opened, and the controller puts what is left
in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cluster.commands.privacy.subjects import ReplaceSubjectKeys, SubjectBranches, SubjectBranchesAsked, SubjectKeysView
from cluster.errors import Conflict
from deployments.keys.port import KeyHolder
from deployments.keys.ring import KeyRing
from deployments.privacy.open_tree import OpenTree, branch_name, fetching
from deployments.privacy.sealed_keys import open_subject_keys, seal_subject_keys
from deployments.privacy.subject_keys import SubjectKeys, way_of

TRIES = 5
AT_ONCE = 100  # subjects: some megabytes for the controller to save, a part of a second


def erase(
    subjects: Sequence[str],
    keys: str,
    ring: KeyRing,
    show: Callable[[str], SubjectKeysView],
    branches: Callable[[SubjectBranchesAsked], SubjectBranches],
    put: Callable[[ReplaceSubjectKeys], object],
    seal_for: KeyHolder | None = None,
) -> Iterator[str]:
    """Destroys the subjects' keys among those of that name, many at a time; gives their pseudonyms, under which the audit has
    them, as soon as they are erased. Whoever had no key loses what it would have got.

    `show`, `branches` and `put` ask the controller. The keys that are left are sealed for `seal_for`, else for whom they were.

    Raises NotFound where there are no such keys, Forbidden where none of the ring opens them, Conflict where others replace them
    again and again, BadArtifact where they were changed, Unreachable.
    """
    for first in range(0, len(subjects), AT_ONCE):
        some = subjects[first : first + AT_ONCE]
        for attempt in range(1, TRIES + 1):
            try:
                pseudonyms, request = _without(some, keys, ring, show(keys), branches, seal_for)
                put(request)
            except Conflict:
                if attempt == TRIES:
                    raise
            else:
                yield from pseudonyms
                break


def _without(
    subjects: Sequence[str],
    keys: str,
    ring: KeyRing,
    view: SubjectKeysView,
    branches: Callable[[SubjectBranchesAsked], SubjectBranches],
    seal_for: KeyHolder | None,
) -> tuple[list[str], ReplaceSubjectKeys]:
    found, holder = open_subject_keys(view.document, keys, view.number, ring)
    tree = OpenTree(keys, found.root, fetching(branches, keys, view.number))
    pseudonyms = [found.pseudonym(subject) for subject in subjects]
    tree.erase([way_of(pseudonym) for pseudonym in pseudonyms])
    number = view.number + 1
    document = seal_subject_keys(SubjectKeys(found.naming, tree.root), keys, number, seal_for or holder)
    changed = {branch_name(node): sealed for node, sealed in tree.changed.items()}
    return pseudonyms, ReplaceSubjectKeys(name=keys, number=number, document=document, erased=tuple(pseudonyms), branches=changed)
