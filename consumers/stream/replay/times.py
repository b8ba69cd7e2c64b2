"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

from cluster.errors import BadInput


def milliseconds(written: str | None, option: str) -> int | None:
    """An ISO time (UTC where it says no zone) as Unix milliseconds. Raises BadInput."""
    if written is None:
        return None
    try:
        when = datetime.fromisoformat(written)
    except ValueError as error:
        raise BadInput(str(error), where=option, remedy="write a time like 2026-11-24T08:00:00+00:00") from error
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
