"""A key for every data subject out of one secret, of which any one can be destroyed for good. Pure, but that it draws.

The tree of Goldreich, Goldwasser and Micali: a node gives its two halves, 64 levels down to a subject's own; who has a node has
all below it, and nothing beside it. To erase a subject is to keep, in place of the node above it, those beside the way to it:
what is kept leads there no more. It grows with what is erased, by 2.6 kB at most, and never with the subjects.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

DEPTH = 64
_KEY_BYTES = 32
_NODE = struct.Struct(f">BQ{_KEY_BYTES}s")  # depth, the way to it, key
_PSEUDONYM_DIGITS = 32


@dataclass(frozen=True, slots=True)
class SubjectKeys:
    """`nodes` are keys by their depth and the bits of the way to them. `naming` makes pseudonyms: without it nobody can tell
    whose they are."""

    naming: bytes
    nodes: Mapping[tuple[int, int], bytes]

    @classmethod
    def new(cls) -> Self:
        """Those of all subjects there may be."""
        return cls(secrets.token_bytes(_KEY_BYTES), {(0, 0): secrets.token_bytes(_KEY_BYTES)})

    def pseudonym(self, subject: str) -> str:
        """32 hex digits: the same for the same subject, and telling nothing of it without `naming`. Bytes that are no text stand
        in `subject` as Python escapes them (`surrogateescape`)."""
        return hmac.digest(self.naming, subject.encode("utf-8", "surrogateescape"), "sha256").hex()[:_PSEUDONYM_DIGITS]

    def key_of(self, pseudonym: str) -> bytes | None:
        """The subject's key, 32 bytes; None where it was destroyed. Takes some 0.1 ms."""
        way = _way(pseudonym)
        for depth in range(DEPTH + 1):
            node = self.nodes.get((depth, way >> (DEPTH - depth)))
            if node is not None:
                for level in range(depth, DEPTH):
                    node = _half(node, way >> (DEPTH - 1 - level) & 1)
                return hmac.digest(node, b"headrace field\0" + pseudonym.encode(), "sha256")
        return None

    def without(self, pseudonym: str) -> SubjectKeys:
        """These without the subject's; the same where it is gone already."""
        way = _way(pseudonym)
        nodes = dict(self.nodes)
        for depth in range(DEPTH + 1):
            node = nodes.pop((depth, way >> (DEPTH - depth)), None)
            if node is None:
                continue
            for level in range(depth, DEPTH):
                turn = way >> (DEPTH - 1 - level) & 1
                nodes[level + 1, way >> (DEPTH - 1 - level) ^ 1] = _half(node, 1 - turn)
                node = _half(node, turn)
            return replace(self, nodes=nodes)
        return self

    def to_bytes(self) -> bytes:
        """All of it, in clear: to be sealed at once."""
        return self.naming + b"".join(_NODE.pack(depth, way, key) for (depth, way), key in sorted(self.nodes.items()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` gave. Raises struct.error where it is not that."""
        found = _NODE.iter_unpack(data[_KEY_BYTES:])
        return cls(data[:_KEY_BYTES], {(depth, way): key for depth, way, key in found})


def _half(node: bytes, turn: int) -> bytes:
    return hmac.digest(node, b"\1" if turn else b"\0", "sha256")


def _way(pseudonym: str) -> int:
    return int(pseudonym[:16], 16)
