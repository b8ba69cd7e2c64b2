"""A Merkle tree over an append-only log, as RFC 6962 section 2.1 has it; only its edge is kept, some thirty hashes. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A tree of `size` leaves. `edge` has the roots of its whole subtrees, one for each bit of the size, the largest first."""

    size: int = 0
    edge: tuple[bytes, ...] = ()

    def adding(self, leaves: Iterable[bytes]) -> TreeHead:
        """The tree with these records behind all others."""
        size, edge = self.size, list(self.edge)
        for leaf in leaves:
            node, height = leaf_hash(leaf), size
            while height & 1:
                node = node_hash(edge.pop(), node)
                height >>= 1
            edge.append(node)
            size += 1
        return TreeHead(size, tuple(edge))

    @property
    def root(self) -> bytes:
        """The hash of all; that of nothing where there is none."""
        if not self.edge:
            return hashlib.sha256().digest()
        *rest, node = self.edge
        for left in reversed(rest):
            node = node_hash(left, node)
        return node
