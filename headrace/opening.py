"""Opens what Headrace has encrypted, for programs: fields of records, many at once, and Parquet files.

With the settings of the command line (HEADRACE_URL and HEADRACE_TOKEN, or HEADRACE_HOME; HEADRACE_KEYS), by its way to the
controller, and with the rights that it takes there. What can't be opened is told in its place, beside what can; no value stands
in an error, a log or a repr.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import simdjson

from cluster.errors import BadInput, HeadraceError, NotFound
from consumers.stream.sealed.book import FRESH_S, SubjectBook
from consumers.stream.sealed.one_field import FieldState, KeysByName, KeysOfOne, OpenedField, opened_field, owners_in
from deployments.artifacts.places import Place, explaining, parquet_files
from deployments.privacy.parquet import LockedFile, open_parquet, opening
from deployments.privacy.sealed_keys import LockedKeys
from headrace.client import ControlClient

__all__ = ["FieldOpener", "FieldState", "FileState", "OpenedField", "OpenedFile", "open_files"]

KEYS = ("subjects",)  # as `encrypt.keys` of a stream is where it is left out


class FieldOpener:
    """Opens fields that streams have encrypted (`output.encrypt`). It takes an admin, and the key-encryption key of the streams.

    Subjects' keys that were had are kept, and whether some were erased is asked every 15 s, as stream workers do: so most calls
    ask nobody. Calls from several threads wait for each other while keys are had.
    """

    def __init__(
        self, client: ControlClient, *, keys: Collection[str] = KEYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`keys` are the names of the subjects' keys that are asked for; nobody is asked for others that a record names. The
        client is closed with this."""
        self._client, self._names, self._clock = client, frozenset(keys), clock
        self._book = SubjectBook(client.call, clock)
        self._lock = threading.Lock()
        self._refused: dict[str, tuple[float, LockedKeys | NotFound]] = {}

    @classmethod
    def from_environment(cls, *, keys: Collection[str] = KEYS) -> Self:
        """With what the command line goes by. Asks nobody yet. Raises as `ControlClient.from_environment`."""
        return cls(ControlClient.from_environment(patient=False), keys=keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Safe to repeat."""
        self._client.close()

    def open(self, values: Sequence[object], *, topic: str, name: str) -> list[OpenedField]:
        """The field `name` of records that were written to `topic`, `enc:1:...` each: one for each, in their order.

        `topic` is the one that they were encrypted for, also where they come from a copy. All keys that are not known yet are
        asked for at once. Blocks.

        Raises only what is no value's fault: Unauthenticated or Forbidden where the caller is no admin; Unreachable where the
        controller, or the service that has the key, is away (try again: nothing is lost); BadArtifact where the keys were
        changed; BadInput or Conflict where HEADRACE_KEYS names no key, or one that others may read.
        """
        keys, parser = self._keys_of(owners_in(values)), simdjson.Parser()
        return [opened_field(value, keys, topic=topic, name=name, parser=parser) for value in values]

    def _keys_of(self, owners: Mapping[str, Collection[str]]) -> KeysByName:
        """Of those that are asked for, and known."""
        with self._lock:
            had = {name: self._had(name, owners[name]) for name in sorted(self._names & owners.keys())}
        return {name: found for name, found in had.items() if not isinstance(found, NotFound)}

    def _had(self, name: str, pseudonyms: Collection[str]) -> KeysOfOne | LockedKeys | NotFound:
        until_s, refused = self._refused.get(name, (0.0, None))
        if refused is not None and self._clock() < until_s:
            return refused
        try:
            return self._book.keys_of(name, pseudonyms)
        except (NotFound, LockedKeys) as error:
            known = copy(error)  # without the frames that have led to it
            self._refused[name] = self._clock() + FRESH_S, known  # or records one by one would be a call each
            return known


class FileState(StrEnum):
    """What became of a Parquet file that was to be opened."""

    OPENED = "opened"
    LOCKED = "locked"
    """It is encrypted, and no key of this process opens it, or somebody else has encrypted it."""
    DAMAGED = "damaged"
    """It was changed, is cut off, or is no Parquet."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A Parquet file; `error` says why it did not open, without any value."""

    path: str
    state: FileState
    error: HeadraceError | None = None
    _table: Any = field(default=None, repr=False)

    @property
    def table(self) -> Any:
        """Its rows, a `pyarrow.Table`. Raises `error` where it did not open."""
        if self.error is not None:
            raise self.error
        return self._table


def open_files(uri: str) -> Iterator[OpenedFile]:
    """The Parquet files of a file or folder, encrypted or in clear, by any URI that pyarrow knows: outputs and quarantine of
    batches, payload logs. One is held at a time; a service that has the key is asked every ten minutes at most.

    Raises NotFound where there is none; Unreachable where the storage, or the service that has the key, is away; BadInput where
    files may not be read.
    """
    found = parquet_files(uri)
    if not found:
        raise NotFound("no Parquet file is there", where=uri, remedy="name one, or a folder with some")
    return map(_opened, found)


def _opened(file: Place) -> OpenedFile:
    path = str(file)
    with explaining(path):
        content = pa.BufferReader(file.read())
    try:
        parquet = open_parquet(content, path)
        with opening(path):
            return OpenedFile(path, FileState.OPENED, _table=parquet.read())
    except LockedFile as error:
        return OpenedFile(path, FileState.LOCKED, copy(error))
    except (OSError, pa.ArrowException) as error:  # what was read is here: no storage has failed
        what = f"it was changed, is cut off, or is no Parquet ({type(error).__name__})"
        told = BadInput(what, where=path, remedy="write it again, or take it out of the folder")
        return OpenedFile(path, FileState.DAMAGED, told)
