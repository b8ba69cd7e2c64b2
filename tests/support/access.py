"""Keys and callers for tests of who may do what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.access.callers import Grant
from cluster.access.keys import StoredKey, new_key
from cluster.access.policy import Access, AccessPolicy
from cluster.routing.routes import RouteTable


@dataclass(frozen=True)
class MadeKey:
    """A key, and how it is known."""

    text: str
    stored: StoredKey

    @property
    def bearer(self) -> dict[str, str]:
        """The header of a call with it."""
        return {"authorization": f"Bearer {self.text}"}


def made_key(name: str, *grants: Grant, expires_s: float | None = None) -> MadeKey:
    """Draws one."""
    fresh = new_key()
    return MadeKey(fresh.text, StoredKey(fresh.id, name, fresh.digest, grants, 0.0, expires_s))


def closed(table: RouteTable, *keys: MadeKey, document: Access | None = None) -> RouteTable:
    """The table with these keys, where nobody may do anything but by a key or the document."""
    return replace(table, access=AccessPolicy(document or Access(), {key.stored.id: key.stored for key in keys}))
