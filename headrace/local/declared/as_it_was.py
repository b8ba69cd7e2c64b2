"""A run that nobody has ended is brought back as it was: what is left out now is as it was started. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

from headrace.local.options import ONCE, UpOptions, words_for
from headrace.local.run_state import RunState


def as_it_was(
    asked: UpOptions, given: Collection[str], left: RunState | None, *, owns_ray: bool
) -> tuple[UpOptions, tuple[str, ...]]:
    """What to start with, and which options it has from the run that was `left`; none where `down` has ended that, or where one
    of them joined a Ray and the other does not. `given` are the fields that were said, of `asked`."""
    if left is None or left.options is None or left.owns_ray is not owns_ray:
        return asked, ()
    usual, before = UpOptions(), left.options
    silent = [one.name for one in fields(UpOptions) if one.name not in (*given, *ONCE)]
    kept = {name: getattr(before, name) for name in silent if getattr(before, name) != getattr(usual, name)}
    return replace(asked, **kept), words_for(kept)
