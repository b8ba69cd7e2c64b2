"""The tree of subject keys as far as it was opened: branches are fetched where a way leads into them, many ways at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Self

from cluster.commands.privacy.subjects import SubjectBranches, SubjectBranchesAsked
from cluster.errors import BadArtifact
from deployments.privacy.sealed_keys import in_branches, open_branch, without
from deployments.privacy.subject_keys import CUTS, DEPTH, KeyBranch, TreeNode

MOST_KEPT = 2000  # some 40 MB
WAYS_AT_ONCE = 300

Fetch = Callable[[Iterable[TreeNode]], Mapping[TreeNode, bytes]]


class OpenTree:
    """Not for several threads. `root` is the branch at the top; `changed` are those below it that have changed here, sealed, by
    where they begin."""

    def __init__(self, name: str, root: KeyBranch, fetch: Fetch, before: Self | None = None) -> None:
        """`fetch` gives those that there are of sealed branches. What was opened of the tree `before`, and stands in this one, is
        opened no more."""
        self.root = root
        self.changed: dict[TreeNode, bytes] = {}
        self._name, self._fetch = name, fetch
        self._opened: OrderedDict[TreeNode, tuple[bytes, KeyBranch]] = OrderedDict()
        if before is not None:
            self._take(before)

    def open_node_over(self, way: int) -> tuple[TreeNode, bytes] | None:
        """As `nodes_over`, of what is open: None too where that does not tell."""
        path, missing = self._path(way, {})
        return _kept_over(path, way) if missing is None else None

    def nodes_over(self, ways: Collection[int]) -> dict[int, tuple[TreeNode, bytes] | None]:
        """By the ways to leaves: the node that is kept and leads there, and its key; None where the leaf is gone.

        Raises what `fetch` raises, BadArtifact where branches were changed or lost.
        """
        found: dict[int, tuple[TreeNode, bytes] | None] = {}
        left: list[int] = []
        for way in ways:
            path, missing = self._path(way, {})
            if missing is None:
                found[way] = _kept_over(path, way)
            else:
                left.append(way)
        for first in range(0, len(left), WAYS_AT_ONCE):
            for way, path in self._fetched(left[first : first + WAYS_AT_ONCE]).items():
                found[way] = _kept_over(path, way)
        return found

    def erase(self, ways: Collection[int]) -> None:
        """Has nothing lead to those leaves any more. Raises as `nodes_over`."""
        if self.root.bottom == DEPTH:
            self.root, self.changed = in_branches(self.root, self._name)
        self.nodes_over(ways)  # which fetches what there is on all ways at once
        for way in ways:
            self._erase(way)

    def _erase(self, way: int) -> None:
        path, missing = self._path(way, {})
        if missing is not None:
            path = self._fetched([way])[way]
        if _kept_over(path, way) is None:
            return
        branches, sealed = without(path, way, self._name)
        self.root = branches[0]
        self.changed |= sealed
        for above, branch in pairwise(branches):
            self._opened[branch.top] = above.ends[branch.top[1]], branch

    def _fetched(self, ways: Collection[int]) -> dict[int, Sequence[KeyBranch]]:
        # As it is now: what was open a while ago may have gone for what was opened since.
        lacking = {way: missing for way in ways if (missing := self._path(way, {})[1]) is not None}
        wanted = {(cut, way >> (DEPTH - cut)) for way, node in lacking.items() for cut in CUTS[:-1] if cut >= node[0]}
        sealed = self._fetch(sorted(wanted)) if wanted else {}
        paths: dict[int, Sequence[KeyBranch]] = {}
        for way in ways:
            paths[way], missing = self._path(way, sealed)
            if missing is not None:
                raise BadArtifact("a part of them is lost", where=f"subject keys {self._name}", remedy="restore the store")
        while len(self._opened) > MOST_KEPT:
            self._opened.popitem(last=False)
        return paths

    def _take(self, before: Self) -> None:
        for node, (opens, branch) in sorted(before._opened.items()):
            if self._opens(node) == opens:
                self._opened[node] = opens, branch

    def _opens(self, node: TreeNode) -> bytes | None:
        """What opens the branch that begins there, as the one above it says, where that is open."""
        depth, way = node
        above = max((cut for cut in CUTS if cut < depth), default=0)
        if not above:
            return self.root.ends.get(way) if self.root.bottom == depth else None
        known = self._opened.get((above, way >> (depth - above)))
        return known[1].ends.get(way) if known is not None else None

    def _path(self, way: int, sealed: Mapping[TreeNode, bytes]) -> tuple[Sequence[KeyBranch], TreeNode | None]:
        """The branches on the way, and where the next begins that is neither open nor among those."""
        branch = self.root
        path = [branch]
        while opens := branch.ends.get((node := branch.below(way))[1]):
            known = self._opened.get(node)
            if known is None or known[0] != opens:
                there = self.changed.get(node) or sealed.get(node)
                if there is None:
                    return path, node
                known = self._opened[node] = opens, open_branch(there, opens, self._name, node)
            self._opened.move_to_end(node)
            branch = known[1]
            path.append(branch)
        return path, None


def fetching(ask: Callable[[SubjectBranchesAsked], SubjectBranches], name: str, number: int) -> Fetch:
    """Asks the controller for branches of the keys of that number; Conflict where they are of another now."""

    def fetch(nodes: Iterable[TreeNode]) -> Mapping[TreeNode, bytes]:
        names = {branch_name(node): node for node in nodes}
        told = ask(SubjectBranchesAsked(name=name, number=number, branches=tuple(names)))
        return {names[each]: sealed for each, sealed in told.branches.items()}

    return fetch


def branch_name(node: TreeNode) -> str:
    """What the controller calls the branch that begins there."""
    return f"{node[0]}/{node[1]:x}"


def _kept_over(path: Sequence[KeyBranch], way: int) -> tuple[TreeNode, bytes] | None:
    branch = path[-1]
    node = branch.kept_over(branch.below(way))
    return (node, branch.nodes[node]) if node is not None else None
