"""Seals a version's files: what is written is encrypted, and the data key is gone once its wraps are written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.errors import BadInput
from deployments.artifacts.manifest import KEYS, Seal
from deployments.artifacts.sealing.chunks import context_of, write_sealed
from deployments.artifacts.sealing.wraps import wrapped_for
from deployments.keys.port import KeyHolder, new_data_key


def seal_files(files: Mapping[str, Path], into: Path, model: str, holders: Sequence[KeyHolder]) -> Seal:
    """Writes each of `files`, by its path in the version, encrypted below `into`, and keys.json beside them.

    Raises OSError, Unreachable or Forbidden of a service that holds a key: before anything is written.
    """
    if not holders:
        raise BadInput("nobody could open it", where="seal", remedy="name a key")
    seal, data_key = Seal(id=secrets.token_hex(16)), new_data_key()
    keys = wrapped_for(holders, data_key, seal, model)
    for name, path in files.items():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, target.open("xb") as sealed:
            write_sealed(source, sealed, data_key, context_of(seal, model, name))
    (into / KEYS).write_bytes(keys.content)
    return seal
