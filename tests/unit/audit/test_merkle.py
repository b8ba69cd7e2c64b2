"""The tree: RFC 6962's hashes, whatever the number of leaves, and however they were added."""

from __future__ import annotations

import hashlib

import pytest

from cluster.audit.merkle import TreeHead, leaf_hash, node_hash

# Test vectors that implementations of RFC 6962 share.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def whole(leaves: list[bytes]) -> bytes:
    """As the RFC defines it, from all leaves."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(whole(leaves[:half]), whole(leaves[half:]))


@pytest.mark.parametrize("size", range(9))
def test_known_roots(size: int) -> None:
    assert TreeHead().adding(LEAVES[:size]).root.hex() == ROOTS[size]


def test_one_at_a_time_or_many_it_is_the_same_tree() -> None:
    leaves, head = [str(number).encode() for number in range(300)], TreeHead()
    for size, leaf in enumerate(leaves, 1):
        head = head.adding([leaf])
        assert head.root == whole(leaves[:size])
        assert len(head.edge) == size.bit_count()
    assert head == TreeHead().adding(leaves[:77]).adding(leaves[77:])
