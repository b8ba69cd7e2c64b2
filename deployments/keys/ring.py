"""The keys that a process may use to open what is sealed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from cluster.errors import Forbidden, HeadraceError, NotFound, Unreachable
from deployments.keys.port import KeyHolder, WrappedKey
from deployments.keys.references import PRIVATE, holder_of, key_in_file, path_in

VARIABLE = "HEADRACE_KEYS"


class KeyRing:
    """May be used from several threads."""

    def __init__(self, holders: Sequence[KeyHolder], missing: Sequence[NotFound] = (), references: Sequence[str] = ()) -> None:
        """`missing` are keys that are named but not there, `references` where keys were looked for: told where nothing opens."""
        self._holders = tuple(holders)
        self._missing = tuple(missing)
        self._references = tuple(references)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """HEADRACE_KEYS names them, apart by commas: `file:PATH` (a folder: every *.key in it), `env:VARIABLE`,
        `vault:MOUNT/NAME`, `aws-kms:KEY`. Where it is not set: the folder `keys` of HEADRACE_HOME.

        Contacts no service. Raises BadInput for what names no key, Conflict where others may read a private one.
        """
        seen = os.environ if environment is None else environment
        holders: list[KeyHolder] = []
        missing: list[NotFound] = []
        references = _references(seen)
        for reference in references:
            for hold in _named(reference, seen):
                try:
                    holders.append(hold())
                except NotFound as error:
                    missing.append(error)
        return cls(holders, missing, references)

    @property
    def holders(self) -> tuple[KeyHolder, ...]:
        """In the order in which they are tried."""
        return self._holders

    def unwrap(self, wraps: Sequence[WrappedKey], info: bytes, *, where: str) -> bytes:
        """The data key, by whichever of the keys has wrapped it. `where` is what is sealed.

        Raises Forbidden where no key here opens it; Unreachable where the service that holds the last that might is away.
        """
        refused: list[HeadraceError] = []
        for wrapped in wraps:
            for holder in self._holders:
                if holder.key_id != wrapped.key or not holder.opens:
                    continue
                try:
                    return holder.unwrap(wrapped, info)
                except (Forbidden, NotFound, Unreachable) as error:
                    refused.append(error)
        away = next((error for error in refused if isinstance(error, Unreachable)), None)
        if away is not None:
            raise away
        told = "; ".join(str(error) for error in (*refused, *self._missing))
        here = ", ".join(_told(holder) for holder in self._holders if holder.opens) or "none"
        if self._references and not self._holders and not self._missing:
            here = f"none in {', '.join(self._references)}"
        raise Forbidden(
            f"no key of this machine opens it (here: {here})" + (f": {told}" if told else ""),
            where=where,
            remedy=f"it is sealed for {', '.join(one.key for one in wraps) or 'nobody'}: name that key in {VARIABLE}",
        )


def _told(holder: KeyHolder) -> str:
    return holder.where if holder.where.startswith(holder.key_id) else f"{holder.key_id} in {holder.where}"


def keys_folder() -> Path | None:
    """Where keys without a kind are looked for: the first folder that HEADRACE_KEYS names, else HEADRACE_HOME/keys; None where
    there is no such folder."""
    folders = (path_in(one) for one in _references(os.environ) if one.startswith("file:"))
    return next((folder for folder in folders if folder.is_dir()), None)


def _references(environment: Mapping[str, str]) -> list[str]:
    named = environment.get(VARIABLE)
    if not named:
        home = Path(environment.get("HEADRACE_HOME") or ".headrace").expanduser().absolute()  # errors tell it elsewhere too
        return [f"file:{home / 'keys'}"]
    return [one.strip() for one in named.split(",") if one.strip()]


def _named(reference: str, environment: Mapping[str, str]) -> Sequence[Callable[[], KeyHolder]]:
    """What brings each key: one that is not there keeps no other from being used."""
    if reference.startswith("file:") and (folder := path_in(reference)).is_dir():
        return [partial(key_in_file, file) for file in sorted(folder.glob(f"*{PRIVATE}"))]
    return [partial(holder_of, reference, environment=environment)]
