"""What processes tell of the rows that they sampled: counts in the profile's bins, beside what the profile itself has.

A **rate** is the share of rows of which one fixed thing is true: a feature lies at or below a cut, is one category, is missing.
Its **reference** is how often that was so in the version's profile. All of a version's rates are told together, as arrays in one
order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cluster.drift.kinds import KINDS
from cluster.errors import BadInput, NotFound

Numbers = npt.NDArray[np.int64]
Cuts = npt.NDArray[np.float64]

HISTOGRAM_BINS = 16
# A profile has 4,096 features of the inputs and as many of the outputs, at most; and one for what is true of whole rows.
MOST_FEATURES = 2 * 4096 + 1
MOST_RATES = 12 * MOST_FEATURES
# How many rows choose a cut: the two that are the profile's edges, between which cuts lie at fixed places.
EDGE_ROWS = 2


@dataclass(frozen=True, slots=True)
class WatchedFeature:
    """One feature: its name, such as `image[3,5]`, whether it is of an answer, and in how many of the profile's rows it was seen.

    `bins` says what its histogram's bins are, for people: the lowest and the highest edge of bins of equal width, or a name for
    each, of categories.
    """

    name: str
    answer: bool
    rows: int
    bins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DriftReference:
    """What is watched of one version, and how it was in its profile: f features, r rates. Rates of one feature lie together.

    All arrays are [r], but `histogram`, [f, 16]. `feature` is a place in `features`, `kind` one in KINDS; `cut` is the value of
    a cut (NaN where there is none), `category` a name (of as many as there are rates; empty where there is none). `hits` of the
    feature's rows were so in the profile. `picked` is how many of these same rows determine what is counted: 0 where it was fixed
    before them (missing), 1 a category, EDGE_ROWS a cut or the range, as many as there are names where none of them is meant
    (unseen).
    """

    features: tuple[WatchedFeature, ...]
    feature: Numbers
    kind: Numbers
    cut: Cuts
    category: tuple[str, ...]
    hits: Numbers
    picked: Numbers
    histogram: Numbers


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What one process counted of one version since its last such report: `rows` and `histogram` by feature, [f] and [f, 16],
    `hits` by rate, [r].

    `source` is new for each process and version, and `sequence` rises: a resend counts nothing. `digest` is the reference's; the
    reference itself comes along where the controller has said that it does not know it (NotFound).
    """

    source: str
    sequence: int
    model: str
    version: int
    digest: str
    rows: Numbers
    hits: Numbers
    histogram: Numbers
    reference: DriftReference | None = None

    def with_reference(self, reference: DriftReference) -> DriftReport:
        """The same report, to send where the controller does not know the reference."""
        return replace(self, reference=reference)


def reference_digest(reference: DriftReference) -> str:
    """Names a reference: the same in every process that reads the same profile."""
    digest = hashlib.sha256()
    for feature in reference.features:
        digest.update(repr((feature.name, feature.answer, feature.rows, feature.bins)).encode())
    digest.update(repr(reference.category).encode())
    for name in ("feature", "kind", "cut", "hits", "picked", "histogram"):
        digest.update(np.ascontiguousarray(getattr(reference, name)).astype("<f8").tobytes())
    return digest.hexdigest()


def unknown_reference(report: DriftReport) -> NotFound:
    """What a process is told that did not send the reference along."""
    return NotFound(
        f"no reference {report.digest[:12]} of version {report.version} is known",
        where=f"drift of {report.model}",
        remedy="send the same report again with its reference",
    )


def check_report(report: DriftReport, reference: DriftReference) -> None:
    """Raises BadInput where the report's arrays, or the reference's, do not fit together or are too many."""
    features, rates = len(reference.features), len(reference.hits)
    shapes = {
        "features": features <= MOST_FEATURES,
        "rates": rates <= MOST_RATES,
        "rows": report.rows.shape == (features,),
        "hits": report.hits.shape == (rates,),
        "histogram": report.histogram.shape == (features, HISTOGRAM_BINS) == reference.histogram.shape,
        "category": len(reference.category) == rates,
    } | {name: getattr(reference, name).shape == (rates,) for name in ("feature", "kind", "cut", "picked")}
    wrong = [name for name, fits in shapes.items() if not fits]
    if not wrong and rates:
        outside = (reference.feature < 0) | (reference.feature >= features)
        if outside.any() or (np.diff(reference.feature) < 0).any():
            wrong = ["feature"]
        elif ((reference.kind < 0) | (reference.kind >= len(KINDS))).any():
            wrong = ["kind"]
        elif (report.hits < 0).any() or (report.hits > report.rows[reference.feature]).any():
            wrong = ["hits"]
    if wrong:
        where = f"drift of {report.model}, version {report.version}"
        raise BadInput(f"counts that do not fit: {', '.join(wrong)}", where=where, remedy="upgrade the process that sent them")
