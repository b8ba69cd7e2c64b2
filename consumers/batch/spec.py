"""The `spec` section of a Batch document."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from cluster.fleet.serving import Resources
from cluster.schedule.cron import Schedule
from cluster.section import Section
from deployments.explain.asking import ExplainSection

EXPLAINED = ("explained_features", "explained_values", "explained_error")
_CALL = re.compile(r"^(argmax|max)\(([^()]+)\)$")


class Mode(StrEnum):
    """What a run does to what earlier runs published."""

    REPLACE = "replace"
    APPEND = "append"


class ScoringPlace(StrEnum):
    """Where the engine runs: in each worker, or in the replicas that also serve online."""

    EMBEDDED = "embedded"
    REMOTE = "remote"


class OnRunning(StrEnum):
    """What a run does while another run of the same output is under way."""

    REFUSE = "refuse"
    QUEUE = "queue"


class OnDamage(StrEnum):
    """What to do with a file of which a part can't be read: stop the run until it is mended, or leave all of the file out."""

    FAIL = "fail"
    QUARANTINE = "quarantine"


class ColumnSource(StrEnum):
    """What an output column holds."""

    OUTPUT = "output"
    ARGMAX = "argmax"
    MAX = "max"
    VERSION = "version"
    MODEL = "model"
    OUTLIER = "outlier"


class PatternOrder(StrEnum):
    """How the columns that a pattern names follow each other: as in the first file, by name, or by the numbers in the names."""

    FILE = "file"
    NAME = "name"
    NUMBER = "number"


class BatchInput(Section):
    """What to read.

    `path` is a Parquet file, a directory (hive partitions are recognised), a glob, or a list of these; any of them may be a
    pyarrow filesystem URI, and may hold `{as_of}`. Of what directories hold, files whose names match `files` are data; names that
    begin with a dot or an underscore are not, but for hive folders. `columns` maps each input of the model to one column (number,
    text, list, fixed-size list or fixed-shape tensor), or to a list of columns, one a feature; a text with `*` names all columns
    that match, in `pattern_order`; an input that is not named here reads the column of its own name. Dates, times and decimals
    are the numbers that they are stored as. `filter` is a pyarrow filter in disjunctive normal form, e.g. `[[amount, ">", 10]]`,
    with dates and times as texts; it is pushed down to row groups. `ranges` are the bounds [low, high] that an input's values
    must keep. `only_new` knows a file by its size, the time of its last change and its footer.
    """

    path: str | tuple[str, ...]
    files: str = Field(default="*.parquet", min_length=1, description="which files of a directory are data")
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    pattern_order: PatternOrder | None = Field(default=None, description="the order of columns that a pattern names")
    filter: tuple[Any, ...] = ()
    passthrough: tuple[str, ...] = ()
    narrow: bool = Field(default=False, description="allow conversions that may lose precision, such as double to float")
    refuse_nan: bool = Field(
        default=True, description="quarantine rows with a missing value (null, NaN) in a floating-point input; else it is NaN"
    )
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    only_new: bool = Field(default=False, description="score only the files that no earlier published run has scored")
    on_damage: OnDamage = OnDamage.FAIL

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths, also where only one is given."""
        return (self.path,) if isinstance(self.path, str) else self.path


class OutputColumn(Section):
    """One column of the output: `NAME` (an output of the model), `argmax(NAME)`, `max(NAME)`, `version()`, `model()`, or
    `outlier()`: what share of rows like the profile's is as unlike it as this one, or more."""

    source: ColumnSource
    output: str = ""

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value in ("version()", "model()", "outlier()"):
            return {"source": value.removesuffix("()")}
        call = _CALL.match(value)
        return {"source": call[1], "output": call[2].strip()} if call else {"source": ColumnSource.OUTPUT, "output": value}


class BatchOutput(Section):
    """What to write. `columns` maps column names to what they hold; left out, every output and the version. BYTES become strings.

    `partition_by` names pass-through columns that become hive directories; that of an empty text Spark does not read.
    `keep` is how many replaced runs stay on disk. Of the `keep_runs` newest runs the records stay readable (manifest, receipts,
    what is set aside), beside the output in `.NAME.headrace/runs`; published rows and quarantines are never removed, and
    `only_new` knows the files of all runs.
    """

    path: str
    columns: dict[str, OutputColumn] = Field(default_factory=dict)
    mode: Mode = Mode.REPLACE
    compression: str = "zstd"
    partition_by: tuple[str, ...] = ()
    max_file_rows: int = Field(default=10_000_000, ge=1, description="no output file holds more rows than this")
    keep: int = Field(default=1, ge=0)
    keep_runs: int = Field(default=50, ge=10, description="how many runs' records are kept")
    encrypt: str = Field(
        default="", description="a key, by its name or `file:`, that output and quarantine are encrypted for (docs/privacy.md)"
    )
    quarantine: str | None = Field(default=None, description="where quarantined rows go; PATH.quarantine where left out")

    @field_validator("compression")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("zstd", "snappy", "gzip", "lz4", "brotli", "none"):
            raise ValueError(f"{value!r} is not one of zstd, snappy, gzip, lz4, brotli, none")
        return value


class BatchExplain(ExplainSection):
    """Writes why each row was answered so: the `top` strongest features as lists of names and of values, and the error of the
    whole, in columns of their own. A row takes as many evaluations as one that is explained online: allow fewer where that is too
    long."""

    top: int = Field(default=5, ge=1, le=1000, description="how many features are named, by the size of what they add")


class Workers(Section):
    """How many workers score at a time, and what each asks of a node. No `max`: as many as there are CPUs."""

    min: int = Field(default=1, ge=1)
    max: int | None = Field(default=None, ge=1)
    resources: Resources = Resources()
    threads: int = Field(default=1, ge=1, description="engine threads a worker")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class UnitBounds(Section):
    """How large a unit may be. A row group is never split, so one that is larger is a unit of its own."""

    max_rows: int = Field(default=2_000_000, ge=1)
    max_bytes: int = Field(default=128 * 1024 * 1024, ge=1, description="uncompressed")


class BatchSpec(Section):
    """One bulk scoring, as applied. `version` pins one; None: the stable version when the run starts."""

    model: str
    version: int | None = Field(default=None, ge=1)
    input: BatchInput
    output: BatchOutput
    max_quarantined: int = Field(default=1000, ge=0, description="more bad rows than this stop the run")
    scoring: ScoringPlace = ScoringPlace.EMBEDDED
    rows_per_call: int = Field(default=2048, ge=1, description="rows an engine is given at a time")
    workers: Workers = Workers()
    units: UnitBounds = UnitBounds()
    on_running: OnRunning = OnRunning.REFUSE
    explain: BatchExplain | None = Field(
        default=None, description="adds columns explained_features, explained_values and explained_error"
    )
    schedule: Schedule | None = Field(default=None, description="when the cluster runs it by itself")

    @model_validator(mode="after")
    def _explained_columns_are_free(self) -> Self:
        taken = set(EXPLAINED) & {*self.output.columns, *self.input.passthrough} if self.explain is not None else None
        if taken:
            raise ValueError(f"columns {sorted(taken)} are written by `explain`: rename the others")
        return self

    @model_validator(mode="after")
    def _partitioned_by_what_is_written(self) -> Self:
        missing = [name for name in self.output.partition_by if name not in self.input.passthrough]
        if missing:
            raise ValueError(f"output.partition_by {missing} must also be in input.passthrough")
        clash = [name for name in self.input.passthrough if name in self.output.columns]
        if clash:
            raise ValueError(f"output.columns {clash} are pass-through columns too: rename one of them")
        return self
