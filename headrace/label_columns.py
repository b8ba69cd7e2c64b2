"""Labels as two columns of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from cluster.commands.labels import Label
from cluster.errors import BadInput, NotFound
from cluster.quality.taking import number_of
from deployments.artifacts.places import Place, explaining, parquet_files
from deployments.privacy.parquet import open_parquet
from headrace.label_lines import LABELS_AT_ONCE


def of_parquet(uri: str, key: str, label: str) -> Iterator[Label | str]:
    """The labels of a file, or of a folder's files, by any URI; in place of one that can't be read, a text that says which.

    Never holds more than some thousand rows. Raises NotFound where there is no file, BadInput where one is no Parquet or lacks a
    column.
    """
    files = parquet_files(uri)
    if not files:
        raise NotFound(
            "no Parquet file is there", where=uri, remedy="name one whose name ends in .parquet, or a folder with some"
        )
    for file in files:
        yield from _of_file(file, key, label)


def _of_file(file: Place, key: str, label: str) -> Iterator[Label | str]:
    with explaining(str(file)), file.filesystem.open_input_file(file.path) as source:
        try:
            parquet = open_parquet(source, str(file))
        except pa.ArrowInvalid as error:
            raise BadInput("it is no Parquet file", where=str(file), remedy="remove it, or name another folder") from error
        missing = [name for name in (key, label) if name not in parquet.schema_arrow.names]
        if missing:
            raise BadInput(f"it has no column {missing[0]}", where=str(file), remedy="name the columns with --key and --label")
        row = 0
        for batch in parquet.iter_batches(batch_size=LABELS_AT_ONCE, columns=[key, label]):
            for one_key, one_label in zip(batch[key].to_pylist(), batch[label].to_pylist(), strict=True):
                row += 1
                yield _of_row(one_key, one_label) or f"{file.name} row {row}: no text and number"


def _of_row(key: object, label: object) -> Label | None:
    if not isinstance(key, str) or not isinstance(label, str | int | float) or number_of(label) is None:
        return None
    return Label(key=key, label=label)
