"""A payload as text that may stand on a screen: bounded, and without what is kept back. Pure.

Where anything is kept back, a field is shown only if it is known to be an input that is not: a value under a name that was
misspelt is no less secret.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from consumers.stream.codecs.fields import steps_of
from consumers.stream.spec import Format, InputEnvelope, StreamInput
from deployments.gateway.console.streams import ShownAs

TEXT_MOST, HEX_MOST, PARSED_MOST = 16_384, 1024, 1 << 20
HIDDEN = "(kept back)"
# Signs that turn the direction of what follows: seen, and without effect.
_TURNING = {code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@dataclass(frozen=True, slots=True)
class ShownValue:
    """What is shown, and what there is to say about it."""

    shown_as: ShownAs
    text: str
    note: str


def shown_value(value: bytes | None, given: StreamInput, *, inputs: Collection[str], redact: Collection[str]) -> ShownValue:
    """`inputs` are the model's; those in `redact` are never shown."""
    if value is None:
        return ShownValue(ShownAs.NOTHING, "", "it has no value; where it was too large for its topic, the record has it still")
    if not redact:
        return _whole(value)
    if given.format is not Format.JSON or len(value) > PARSED_MOST:
        why = "too large to be taken apart" if given.format is Format.JSON else f"of format {given.format}"
        return _nothing(f"inputs are kept back, and this payload is {why}")
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return _nothing("inputs are kept back, and this payload is no JSON: nobody can tell where they stand")
    if not isinstance(document, dict):
        return _nothing("inputs are kept back, and this payload is no object with fields")
    under = ((), ("data",)) if given.envelope is InputEnvelope.CLOUDEVENTS else ((),)
    places = {(*root, *steps_of(given.fields.get(name, name))) for name in inputs if name not in redact for root in under}
    text = json.dumps(_kept(document, (), places), ensure_ascii=False, indent=1)
    kept_back = ", ".join(sorted(redact)[:10])
    return _cut(text, f"kept back: {kept_back}, and what is no input of the model")


def _whole(value: bytes) -> ShownValue:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and not any(ord(sign) < 32 and sign not in "\t\n\r" for sign in text[:TEXT_MOST]):
        return _cut(text, "")
    note = f"the first {HEX_MOST} bytes of it" if len(value) > HEX_MOST else ""
    return ShownValue(ShownAs.HEX, value[:HEX_MOST].hex(" ", 2), note)


def _cut(text: str, note: str) -> ShownValue:
    if len(text) > TEXT_MOST:
        note = "; ".join(filter(None, (f"the first {TEXT_MOST} characters of {len(text)}", note)))
    return ShownValue(ShownAs.TEXT, text[:TEXT_MOST].translate(_TURNING), note)


def _nothing(why: str) -> ShownValue:
    return ShownValue(ShownAs.NOTHING, "", f"not shown: {why}")


def _kept(document: Mapping[str, Any], at: tuple[str, ...], places: Collection[tuple[str, ...]]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in document.items():
        here = (*at, name)
        if here in places:
            shown[name] = HIDDEN if _has_fields(value) else value  # no input has any: nobody knows what they are
        elif isinstance(value, dict) and any(place[: len(here)] == here for place in places):
            shown[name] = _kept(value, here, places)
        else:
            shown[name] = HIDDEN
    return shown


def _has_fields(value: Any) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            return True
        if isinstance(one, list):
            waiting += one
    return False
