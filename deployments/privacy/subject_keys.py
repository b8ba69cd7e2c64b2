"""A key for every data subject out of one secret, of which any one can be destroyed for good. Pure, but that it draws.

The tree of Goldreich, Goldwasser and Micali: a node gives its two halves, 64 levels down to a subject's own; who has a node has
all below it, and nothing beside it. To erase a subject is to keep, in place of the node above it, those beside the way to it:
what is kept leads there no more. It grows with what is erased, and never with the subjects.

The tree is kept in branches, cut at the depths of CUTS, so that an erasure rewrites the few on its way, and who looks for a key
reads these. Nearly all subjects are found above the last cut: what lies below is 1.3 kB an erasure, and seldom read.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

DEPTH = 64
CUTS = (8, 16, 24, DEPTH)
TOP = (0, 0)
KEY_BYTES = 32
_COUNT, _WAY = struct.Struct(">I"), struct.Struct(">Q")
_NODE = struct.Struct(f">BQ{KEY_BYTES}s")  # as whole trees were written: depth, the way to it, key
_PSEUDONYM_DIGITS = 32

TreeNode = tuple[int, int]  # its depth, and the bits of the way to it


@dataclass(frozen=True, slots=True)
class KeyBranch:
    """What is below the node `top`, down to the depth `bottom`. `nodes` are the keys that are kept. `ends` are the ways to nodes
    of that depth which are kept no more, each with what opens the branch below it; with nothing at the leaves."""

    top: TreeNode
    bottom: int
    nodes: Mapping[TreeNode, bytes]
    ends: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def untouched(cls, top: TreeNode, key: bytes) -> Self:
        """That of a node which is kept."""
        return cls(top, next_cut(top[0]), {top: key})

    def below(self, way: int) -> TreeNode:
        """Where the branch below this one begins, on the way to that leaf."""
        return self.bottom, way >> (DEPTH - self.bottom)

    def kept_over(self, node: TreeNode) -> TreeNode | None:
        """The node that is kept and is that one, or above it."""
        depth, way = node
        steps = ((at, way >> (depth - at)) for at in range(self.top[0], depth + 1))
        return next((step for step in steps if step in self.nodes), None)

    def split(self, node: TreeNode) -> tuple[Self, bytes]:
        """This with those beside the way to that node in place of the one above it, and the node's key. Raises KeyError where
        none above it is kept."""
        kept = self.kept_over(node)
        if kept is None:
            raise KeyError("it is kept no more")
        nodes = dict(self.nodes)
        key, (depth, way) = nodes.pop(kept), node
        for at in range(kept[0] + 1, depth + 1):
            step = way >> (depth - at)
            nodes[at, step ^ 1] = _half(key, ~step & 1)
            key = _half(key, step & 1)
        return replace(self, nodes=nodes), key

    def with_end(self, end: int, opens: bytes) -> Self:
        """This with what opens the branch below `end`."""
        return replace(self, ends={**self.ends, end: opens})

    def to_bytes(self) -> bytes:
        """In clear: to be sealed at once. Where its nodes are follows from its ends."""
        ends = sorted(self.ends)
        told = [_COUNT.pack(len(ends)), *map(_WAY.pack, ends), *(self.ends[end] for end in ends)]
        return b"".join([*told, *(self.nodes[place] for place in _beside(self.top, self.bottom, ends))])

    @classmethod
    def from_bytes(cls, top: TreeNode, data: bytes) -> Self:
        """What `to_bytes` gave. Raises struct.error, or ValueError, where it is not that."""
        bottom, at = next_cut(top[0]), _COUNT.size
        (count,) = _COUNT.unpack_from(data)
        ends = [_WAY.unpack_from(data, at + _WAY.size * each)[0] for each in range(count)]
        keys = _keys(data[at + _WAY.size * count :])
        opens = [next(keys) for _ in ends] if bottom < DEPTH else [b""] * count
        return cls(top, bottom, dict(zip(_beside(top, bottom, ends), keys, strict=True)), dict(zip(ends, opens, strict=True)))


@dataclass(frozen=True, slots=True)
class SubjectKeys:
    """`naming` makes pseudonyms: without it nobody can tell whose they are. `root` is the branch at the top of the tree."""

    naming: bytes
    root: KeyBranch

    @classmethod
    def new(cls) -> Self:
        """Those of all subjects there may be."""
        return cls(secrets.token_bytes(KEY_BYTES), KeyBranch.untouched(TOP, secrets.token_bytes(KEY_BYTES)))

    def pseudonym(self, subject: str) -> str:
        """32 hex digits: the same for the same subject, and telling nothing of it without `naming`. Bytes that are no text stand
        in `subject` as Python escapes them (`surrogateescape`)."""
        return hmac.digest(self.naming, subject.encode("utf-8", "surrogateescape"), "sha256").hex()[:_PSEUDONYM_DIGITS]

    def to_bytes(self) -> bytes:
        """In clear: to be sealed at once."""
        return self.naming + self.root.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` gave. Raises struct.error, or ValueError, where it is not that."""
        return cls(data[:KEY_BYTES], KeyBranch.from_bytes(TOP, data[KEY_BYTES:]))

    @classmethod
    def from_whole(cls, data: bytes) -> Self:
        """As trees were written before they had branches: all nodes in one, down to the leaves. Raises struct.error where it is
        not that."""
        nodes = {(depth, way): key for depth, way, key in _NODE.iter_unpack(data[KEY_BYTES:])}
        return cls(data[:KEY_BYTES], KeyBranch(TOP, DEPTH, nodes))


def next_cut(depth: int) -> int:
    """Where a branch ends that begins at that depth."""
    return CUTS[bisect_right(CUTS, depth)]


def way_of(pseudonym: str) -> int:
    """The way to the subject's leaf: 64 bits."""
    return int(pseudonym[:16], 16)


def key_below(node: TreeNode, key: bytes, pseudonym: str) -> bytes:
    """The subject's key, 32 bytes, which that node leads to. Takes some 0.1 ms."""
    way = way_of(pseudonym)
    for depth in range(node[0] + 1, DEPTH + 1):
        key = _half(key, way >> (DEPTH - depth) & 1)
    return hmac.digest(key, b"headrace field\0" + pseudonym.encode(), "sha256")


def leaves_gone(nodes: Mapping[TreeNode, bytes]) -> list[int]:
    """The leaves that no node of a whole tree leads to. Raises ValueError where they are no tree with single leaves erased."""
    inner: set[TreeNode] = set()
    for depth, way in nodes:
        at = depth - 1
        while at >= 0 and (above := (at, way >> (depth - at))) not in inner:
            inner.add(above)
            at -= 1
    gone: list[int] = []
    left = [TOP]
    while left:
        depth, way = node = left.pop()
        if node in nodes:
            continue
        if depth == DEPTH:
            gone.append(way)
        elif node not in inner and depth < DEPTH - 4:
            raise ValueError("a part of the tree is missing")
        else:
            left += [(depth + 1, 2 * way), (depth + 1, 2 * way + 1)]
    return gone


def _beside(top: TreeNode, bottom: int, ends: list[int]) -> list[TreeNode]:
    """Where a branch with these ends has nodes: beside the ways to them, in order; its top where it has none."""
    on_way = {(depth, end >> (bottom - depth)) for end in ends for depth in range(top[0] + 1, bottom + 1)}
    return sorted({(depth, way ^ 1) for depth, way in on_way} - on_way) if ends else [top]


def _keys(data: bytes) -> Iterator[bytes]:
    if len(data) % KEY_BYTES:
        raise ValueError("keys are cut")
    return (data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES))


def _half(key: bytes, turn: int) -> bytes:
    return hmac.digest(key, b"\1" if turn else b"\0", "sha256")
