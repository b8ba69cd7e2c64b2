"""Subject keys as the controller keeps them: sealed, so that it never holds what opens a field.

The root is sealed under a data key that is wrapped for a key-encryption key; every other branch under a key of its own, which the
branch above it holds. So what is replaced above is enough to destroy all that was below, and another key-encryption key means the
root alone, however much was erased.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict

from cluster.errors import BadArtifact, Forbidden, NotFound
from cluster.section import Base64Bytes
from deployments.keys.port import KeyHolder, WrappedKey, new_data_key
from deployments.keys.ring import KeyRing
from deployments.privacy.subject_keys import DEPTH, KeyBranch, SubjectKeys, TreeNode, leaves_gone, next_cut

_NONCE_BYTES = 12
_ONCE = bytes(_NONCE_BYTES)  # under a key that seals one thing alone


class LockedKeys(Forbidden):
    """The keys of data subjects are sealed, and this process has not what opens them."""


class TreeForm(IntEnum):
    """How the tree is kept: the whole of it in one document, as it first was, or cut into branches."""

    WHOLE = 1
    BRANCHES = 2


class SealedSubjectKeys(BaseModel):
    """The document that the controller keeps: a data key, wrapped, and what it seals."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    wrapped: WrappedKey
    sealed: Base64Bytes
    form: TreeForm = TreeForm.WHOLE


def seal_subject_keys(found: SubjectKeys, name: str, number: int, holder: KeyHolder) -> str:
    """As text, under a data key of its own: what an earlier number is sealed with opens no later one. Raises as `wrap` does."""
    data_key, nonce = new_data_key(), secrets.token_bytes(_NONCE_BYTES)
    sealed = nonce + AESGCM(data_key).encrypt(nonce, found.to_bytes(), _about(name, number))
    wrapped = holder.wrap(data_key, _about(name, number))
    return SealedSubjectKeys(wrapped=wrapped, sealed=sealed, form=TreeForm.BRANCHES).model_dump_json()


def open_subject_keys(text: str, name: str, number: int, ring: KeyRing) -> tuple[SubjectKeys, KeyHolder]:
    """The keys, and who has wrapped them. Raises NotFound where there are none (number 0), LockedKeys where no key here opens
    them, Unreachable where one that may is away, BadArtifact where they were changed."""
    if not number:
        raise NotFound("there are none", where=_where(name), remedy="a stream with `encrypt` makes them as it starts")
    try:
        document = SealedSubjectKeys.model_validate_json(text)
        data_key = ring.unwrap([document.wrapped], _about(name, number), where=_where(name))
        data = AESGCM(data_key).decrypt(document.sealed[:_NONCE_BYTES], document.sealed[_NONCE_BYTES:], _about(name, number))
        found = SubjectKeys.from_whole(data) if document.form is TreeForm.WHOLE else SubjectKeys.from_bytes(data)
    except Forbidden as error:
        raise LockedKeys(error.what, where=error.where, remedy=error.remedy) from error
    except (ValueError, InvalidTag, struct.error):  # ValueError: of pydantic, and of a key or nonce that is none
        raise _changed(name) from None
    holder = next((one for one in ring.holders if one.key_id == document.wrapped.key), None)
    if holder is None:
        raise LockedKeys("the key that opens them is not here", where=_where(name), remedy="name it in HEADRACE_KEYS")
    return found, holder


def seal_branch(branch: KeyBranch, name: str) -> tuple[bytes, bytes]:
    """A key of its own, and the branch under it."""
    key = new_data_key()
    return key, AESGCM(key).encrypt(_ONCE, branch.to_bytes(), _about_branch(name, branch.top))


def open_branch(sealed: bytes, key: bytes, name: str, top: TreeNode) -> KeyBranch:
    """What `seal_branch` sealed. Raises BadArtifact where it is not that."""
    try:
        return KeyBranch.from_bytes(top, AESGCM(key).decrypt(_ONCE, sealed, _about_branch(name, top)))
    except (ValueError, InvalidTag, struct.error):
        raise _changed(name) from None


def without(path: Sequence[KeyBranch], way: int, name: str) -> tuple[list[KeyBranch], dict[TreeNode, bytes]]:
    """The branches on the way to a leaf, the last of which keeps a node above it, without that leaf, from the first down to the
    leaves; and all but the first sealed, by where they begin."""
    branch, *rest = path
    end = branch.below(way)
    if rest:
        key = b""
    else:
        branch, key = branch.split(end)
    if branch.bottom == DEPTH:
        return [branch.with_end(end[1], b"")], {}
    below, sealed = without(rest or [KeyBranch.untouched(end, key)], way, name)
    opens, sealed[end] = seal_branch(below[0], name)
    return [branch.with_end(end[1], opens), *below], sealed


def in_branches(whole: KeyBranch, name: str) -> tuple[KeyBranch, dict[TreeNode, bytes]]:
    """A tree of one branch cut into those that it has now: the first, and all others sealed, by where they begin. Raises
    BadArtifact where it is none."""
    try:
        gone = leaves_gone(whole.nodes)
    except ValueError:
        raise _changed(name) from None
    return branches_of(whole.top, whole.nodes, gone, name)


def branches_of(
    top: TreeNode, nodes: Mapping[TreeNode, bytes], gone: Sequence[int], name: str
) -> tuple[KeyBranch, dict[TreeNode, bytes]]:
    """The branch at `top` of all nodes below it, with the leaves that are gone; and those below it, sealed, by their tops."""
    bottom = next_cut(top[0])
    own = {node: key for node, key in nodes.items() if node[0] <= bottom}
    if bottom == DEPTH:
        return KeyBranch(top, bottom, own, dict.fromkeys(gone, b"")), {}
    parts: dict[int, dict[TreeNode, bytes]] = {}
    for (depth, way), key in nodes.items():
        if depth > bottom:
            parts.setdefault(way >> (depth - bottom), {})[depth, way] = key
    gone_below: dict[int, list[int]] = {}
    for leaf in gone:
        gone_below.setdefault(leaf >> (DEPTH - bottom), []).append(leaf)
    ends: dict[int, bytes] = {}
    sealed: dict[TreeNode, bytes] = {}
    for end, leaves in gone_below.items():
        branch, below = branches_of((bottom, end), parts.get(end, {}), leaves, name)
        ends[end], sealed[bottom, end] = seal_branch(branch, name)
        sealed |= below
    return KeyBranch(top, bottom, own, ends), sealed


def _about(name: str, number: int) -> bytes:
    return f"headrace subject keys\0{name}\0{number}".encode()


def _about_branch(name: str, top: TreeNode) -> bytes:
    return f"headrace branch of subject keys\0{name}\0{top[0]}\0{top[1]}".encode()


def _where(name: str) -> str:
    return f"subject keys {name}"


def _changed(name: str) -> BadArtifact:
    return BadArtifact("they were changed, or are of another version", where=_where(name), remedy="restore the store")
