"""What a build found, as kept in report.json and shown on screens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cluster.errors import BadArtifact
from cluster.versions import BuiltConfidence, BuiltQuality
from deployments.artifacts.manifest import REPORT
from deployments.artifacts.version_files import VersionFiles, reader_of
from deployments.builder.evaluation.neighbours import Neighbours
from deployments.builder.evaluation.quality import Quality, Task

IMPORTED = "imported"


class ReportPart(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Speed(ReportPart):
    """At one batch size, one thread. `speedup` is against the imported model, measured in turns with it."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    speedup: float


class Variant(ReportPart):
    """One form of the model. `speed` is by batch size; `peak_bytes` what loading and scoring adds to a process.

    `unmeasured` says by batch size why there is no speed. `neighbours` is what rows do to each other's answers; None in reports
    of earlier releases.

    `broken` lists the gate's limits that it breaks. A variant with `skipped` could not be made or run, and has nothing else.
    """

    name: str
    steps: tuple[dict[str, Any], ...] = ()
    size_bytes: int = 0
    quality: Quality | None = None
    neighbours: Neighbours | None = None
    speed: dict[str, Speed] = {}
    unmeasured: dict[str, str] = {}
    peak_bytes: int | None = None
    broken: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def speedup(self) -> float:
        """The geometric mean of the speedups at all batch sizes; 1 where none was measured."""
        product = 1.0
        for speed in self.speed.values():
            product *= speed.speedup
        return product ** (1 / len(self.speed)) if self.speed else 1.0


class MethodTrial(ReportPart):
    """What one method made of the sample rows. `why` says why it does not work, or what is wrong with it where it does.

    All numbers are means over the rows that were explained. `agreement` is the correlation of its attributions with those of
    Shapley values, `completeness_error` a share of how far the answer is from the baseline.
    """

    method: str
    works: bool
    why: str = ""
    rows: int = 0
    ms_a_row: float | None = None
    evaluations: float | None = None
    completeness_error: float | None = None
    agreement: float | None = None


class FeatureImportance(ReportPart):
    """How much a feature, or a square of an image, moves answers: the mean size of its part, and a 95 % interval of that mean."""

    feature: str
    mean: float
    low: float
    high: float


class ExplainReport(ReportPart):
    """`background` says in words which rows the version's rows are explained against. `importance` is in `scale`, over
    `importance_rows` rows, the strongest features first, no more than 20 of `features`."""

    background: str
    methods: tuple[MethodTrial, ...] = ()
    importance: tuple[FeatureImportance, ...] = ()
    importance_rows: int = 0
    features: int = 0
    scale: str = ""


class Report(ReportPart):
    """report.json. `parity` is the largest difference of the import from its framework's own answers; `chosen` was kept."""

    model: str
    task: Task
    source: dict[str, Any]
    training: dict[str, Any] | None = None
    parity: float
    data: dict[str, Any]
    variants: tuple[Variant, ...]
    chosen: str | None
    machine: dict[str, Any]
    took_s: float

    @property
    def explain(self) -> ExplainReport | None:
        """What was found on explanations; None where nothing was kept, and in reports of earlier releases.

        It lies in `data`, which takes anything: the release before reads this report too.
        """
        found = self.data.get("explain")
        return None if found is None else ExplainReport.model_validate(found)

    def variant(self, name: str) -> Variant:
        """The variant of that name; KeyError where there is none."""
        for one in self.variants:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def built_quality(self) -> BuiltQuality | None:
        """How right the kept variant was on labelled rows; None where there were none."""
        quality = self.variant(self.chosen).quality if self.chosen is not None else None
        if quality is None or (quality.accuracy is None and quality.mse is None):
            return None
        seen = quality.confidence
        sure = BuiltConfidence(seen.output, seen.rows, seen.right) if seen is not None else None
        return BuiltQuality(quality.rows, quality.accuracy, quality.mse, sure)


def read_report(version: Path | VersionFiles) -> Report | None:
    """The report of a version; None where it was not built by `headrace build`. Raises BadArtifact; of a sealed version
    Forbidden, Unreachable."""
    files = reader_of(version)
    content = files.read(REPORT)
    if content.strip() in (b"", b"{}"):
        return None
    try:
        return Report.model_validate_json(content)
    except ValueError as error:
        raise BadArtifact(
            "its report makes no sense", where=f"{files.where}/{REPORT}", remedy="build the version again"
        ) from error
