"""keys.json: a version's data key, wrapped for each who may open it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import BadArtifact
from cluster.findings import first_finding
from deployments.artifacts.manifest import KEYS, Seal
from deployments.keys.port import DATA_KEY_BYTES, KeyHolder, WrappedKey
from deployments.keys.ring import KeyRing

MOST_BYTES = 1 << 20
REMEDY = "bring the file back, or seal the version again: `headrace build --seal`"


class SealKeys(BaseModel):
    """The file. Who changes it changes who may open the version, never what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: int = 1
    wraps: tuple[WrappedKey, ...]

    @property
    def content(self) -> bytes:
        """Its bytes as a file."""
        return self.model_dump_json(indent=2).encode()


def wrap_info(seal: Seal, model: str) -> bytes:
    """What a version's data key is wrapped for: moved beside another version, a wrap does not open."""
    return "\0".join(("headrace sealed version 1 data key", model, seal.id)).encode()


def wrapped_for(holders: Sequence[KeyHolder], data_key: bytes, seal: Seal, model: str) -> SealKeys:
    """The data key for each of them. Raises Unreachable or Forbidden of a service that holds a key."""
    info = wrap_info(seal, model)
    by_key = {holder.key_id: holder for holder in holders}
    return SealKeys(wraps=tuple(holder.wrap(data_key, info) for holder in by_key.values()))


def unwrapped(keys: SealKeys, seal: Seal, model: str, ring: KeyRing, *, where: str) -> bytes:
    """The data key. Raises as `KeyRing.unwrap`, and BadArtifact where what is wrapped is none: anybody wraps for a public key."""
    data_key = ring.unwrap(keys.wraps, wrap_info(seal, model), where=where)
    if len(data_key) != DATA_KEY_BYTES:
        raise BadArtifact(f"{KEYS} wraps what is no key of a version", where=f"{where}/{KEYS}", remedy=REMEDY)
    return data_key


def parse_wraps(content: bytes, where: str) -> SealKeys:
    """The file's bytes, read. Raises BadArtifact. Pure."""
    try:
        found = SealKeys.model_validate_json(content)
    except ValidationError as error:
        finding = first_finding(error)
        raise BadArtifact(f"bad {KEYS}: {finding.field} {finding.words}", where=f"{where}/{KEYS}", remedy=REMEDY) from error
    if found.format != 1:
        raise BadArtifact(
            f"{KEYS} of format {found.format} is unknown",
            where=f"{where}/{KEYS}",
            remedy="use the Headrace release that built it",
        )
    return found
