"""Payloads as Parquet: a file for each version and minute of a process, whole or not there at all."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import HeadraceError, NoCapacity
from cluster.watch.payloads import PayloadFiles
from deployments.artifacts.places import Place, explaining, locate
from deployments.observe.payloads.columns import to_table
from deployments.observe.payloads.event import PayloadEvent
from deployments.observe.payloads.sink import SinkResult
from deployments.privacy.parquet import encryption_of

SPACE = "free some space; what comes later is kept again"


class ParquetPayloads:
    """Implements PayloadSink. Files lie at `PATH/MODEL/version-N/MINUTE-RANDOM.parquet`, the minute as UTC."""

    def __init__(self, files: PayloadFiles, place: Place | None = None) -> None:
        """Nothing is looked at before the first write. `place` stands for the files' path where it is given."""
        self.gather_s = files.every_s
        self._path, self._place, self._key = files.path, place, files.encrypt

    def write(self, events: Sequence[PayloadEvent]) -> SinkResult:
        """See PayloadSink."""
        groups: dict[tuple[str, int, int], list[PayloadEvent]] = {}
        for event in events:
            groups.setdefault((event.model, event.version, int(event.at_s // 60)), []).append(event)
        kept, failure = 0, None
        for (model, version, minute), group in groups.items():
            try:
                with explaining(self._path, SPACE):
                    self._write(model, version, minute, group)
            except HeadraceError as error:
                failure = error
            except (pa.ArrowException, MemoryError) as error:
                failure = NoCapacity(f"{type(error).__name__} while a file was made", where=self._path, remedy="keep less")
            else:
                kept += len(group)
        return SinkResult(kept, failure)

    def close(self) -> None:
        """See PayloadSink. Nothing is open between writes."""

    def _write(self, model: str, version: int, minute: int, events: Sequence[PayloadEvent]) -> None:
        self._place = self._place or locate(self._path)
        folder = self._place / model / f"version-{version}"
        folder.make()
        name = f"{time.strftime('%Y%m%dT%H%MZ', time.gmtime(60 * minute))}-{secrets.token_hex(4)}.parquet"
        with (folder / name).writing(folder) as sink:
            table = to_table(events)
            # A dictionary of numbers, of which hardly two are alike, takes longer than all else.
            texts = [field.name for field in table.schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
            encrypted = encryption_of(self._key)
            pq.write_table(table, sink.as_file(), compression="zstd", use_dictionary=texts, encryption_properties=encrypted)
