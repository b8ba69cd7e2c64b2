"""What a check says that judges an output which stable has not."""

from __future__ import annotations

from cluster.errors import Conflict
from cluster.versions import Version


def no_output(stable: Version, name: str, where: str) -> Conflict:
    """To be raised."""
    known = ", ".join(spec.name for spec in stable.signature.outputs)
    return Conflict(f"{stable.id} has no output {name!r}", where=where, remedy=f"its outputs: {known}")
