"""Datasets of digits-like rows and batch specs, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cluster.errors import NoCapacity
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.plan import Unit
from consumers.batch.run import Workforce, begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.score.rowscorer import EmbeddedScorer, RowScorer
from consumers.batch.spec import BatchSpec
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.publish import RunManifest
from consumers.batch.write.records import Pinned, Receipt, RunRecord
from deployments.artifacts.fetch import localize
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine
from tests.support.models import SIGNATURE, mlp_artifact, rows


def pinned(artifact: tuple[str, str, Any], version: int = 1) -> Pinned:
    uri, digest, _ = artifact
    return Pinned(model="digits", version=version, artifact_uri=uri, digest=digest, signature=SIGNATURE)


def digits_pin(folder: Path, version: int = 1) -> Pinned:
    return pinned(mlp_artifact(folder / "artifacts", seed=version), version)


def engine_scorer(record: RunRecord) -> RowScorer:
    """The real engine, in this process."""
    engine = load_engine(localize(record.pinned.artifact_uri, record.pinned.digest))
    return EmbeddedScorer(engine, rows_per_call=record.spec.rows_per_call, most_failed=record.spec.max_quarantined)


def images(count: int, seed: int = 0) -> list[list[float | None] | None]:
    return [row.tolist() for row in rows(count, seed)]


def write_file(
    path: Path, ids: Sequence[int], image: Sequence[Any], *, row_group_size: int = 100, **extra: Sequence[Any]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": pa.array(ids, pa.int64()), "image": pa.array(image, pa.list_(pa.float32())), **extra})
    pq.write_table(table, path, row_group_size=row_group_size)


def write_dataset(folder: Path, *, files: int = 4, file_rows: int = 300) -> int:
    """`files` files of row groups of 100 rows; ids count up. Returns the number of rows."""
    for at in range(files):
        write_file(folder / f"{at}.parquet", range(at * file_rows, (at + 1) * file_rows), images(file_rows, seed=at))
    return files * file_rows


def spec_of(source: Path | str, output: Path, /, **changes: Any) -> BatchSpec:
    """A spec for the digits model, of one row group a unit; `changes` are merged, `input` and `output` by field."""
    document: dict[str, Any] = {
        "model": "digits",
        "input": {"path": str(source), "passthrough": ["id"]} | changes.pop("input", {}),
        "output": {"path": str(output), "columns": {"digit": "argmax(probabilities)", "p": "probabilities", "v": "version()"}}
        | changes.pop("output", {}),
        "units": {"max_rows": 100},
    }
    return BatchSpec.model_validate(document | changes)


def published(output: Path) -> pa.Table:
    """What a reader that knows nothing of us sees, by id."""
    return ds.dataset(str(output), format="parquet").to_table().sort_by("id")


def quarantined(output: Path) -> dict[int, str]:
    """The reasons by id."""
    table = ds.dataset(f"{output}.quarantine", format="parquet").to_table()
    return dict(zip(table["id"].to_pylist(), table["_reason"].to_pylist(), strict=True))


def scores(artifact: Pinned, image: np.ndarray) -> np.ndarray:
    """The probabilities that the engine gives for float32 rows [n, 784]."""
    engine = load_engine(localize(artifact.artifact_uri, artifact.digest))
    return np.asarray(engine.score({"image": image})["probabilities"])


class Echo:
    """Answers each row's x as y."""

    def score(self, tensors: Mapping[str, Array], rows: int) -> tuple[dict[str, Array], dict[int, str]]:
        assert len(tensors["x"]) == rows
        return {"y": tensors["x"]}, {}


ECHO = inline_workforce(lambda _record: Echo())


def echo_pin(datatype: Datatype = Datatype.FP32, *shape: int) -> Pinned:
    """A version with one input x and one output y, which Echo answers."""
    x, y = (TensorSpec(name=name, datatype=datatype, shape=(-1, *shape)) for name in ("x", "y"))
    return Pinned(model="echo", version=1, artifact_uri="", digest="", signature=Signature(inputs=(x,), outputs=(y,)))


def echo(source: Path | str, output: Path, pin: Pinned | None = None, /, **changes: Any) -> RunManifest:
    """Runs the echo over the dataset and publishes; `changes` as with `spec_of`."""
    return echo_spec(echo_spec_of(source, output, **changes), pin)


def echo_spec_of(source: Path | str, output: Path, /, **changes: Any) -> BatchSpec:
    """As `spec_of`, for the echo."""
    document: dict[str, Any] = {
        "model": "echo",
        "input": {"path": str(source)} | changes.pop("input", {}),
        "output": {"path": str(output)} | changes.pop("output", {}),
    }
    return BatchSpec.model_validate(document | changes)


def echo_spec(spec: BatchSpec, pin: Pinned | None = None) -> RunManifest:
    """Runs the echo by this spec."""
    return begin("echo", spec, pin or echo_pin(), ECHO, as_of=None, fresh=False, watch=lambda _progress: None)


def stopping_after(workforce: Workforce, count: int) -> Workforce:
    """Fails once `count` units are done, as a full disk would."""

    def score(ledger: Ledger, record: RunRecord, units: Sequence[Unit], workers: int) -> Iterator[Receipt]:
        yield from list(workforce.score(ledger, record, units[:count], workers))
        raise NoCapacity("the disk is full", where="somewhere")

    return replace(workforce, score=score)
