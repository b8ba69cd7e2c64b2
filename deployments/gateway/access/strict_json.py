"""JSON that a stranger wrote: whatever two parsers could read in two ways is refused."""

from __future__ import annotations

import json
import math
from typing import Any


def object_of(data: bytes) -> dict[str, Any]:
    """The JSON object. Raises ValueError for anything else: other encodings than UTF-8, a member that is there twice, numbers
    that are not finite or have thousands of digits, nesting without end."""
    try:
        found = _DECODER.decode(data.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is there twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number without end")
    return number


def _refuse(_text: str) -> Any:
    raise ValueError("NaN and Infinity are no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_refuse)
