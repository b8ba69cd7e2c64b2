"""What scorers tell of rows, on its way to the detectors: added up, and counted once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from cluster.drift.counts import DriftReference, DriftReport, Numbers, check_report, unknown_reference
from cluster.rollout.evidence import mark
from cluster.versions import VersionId


@dataclass(slots=True)
class DriftCounts:
    """What was counted of one version since the last tick."""

    digest: str
    reference: DriftReference
    rows: Numbers
    hits: Numbers
    histogram: Numbers

    @classmethod
    def nothing(cls, digest: str, reference: DriftReference) -> DriftCounts:
        """Of a version that is new here."""
        return cls(
            digest,
            reference,
            np.zeros(len(reference.features), np.int64),
            np.zeros(len(reference.hits), np.int64),
            np.zeros_like(reference.histogram),
        )


@dataclass(slots=True)
class DriftInbox:
    """Used from any thread: a push adds arrays up and returns."""

    told: dict[VersionId, DriftCounts] = field(default_factory=dict)
    _sequences: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, report: DriftReport) -> None:
        """Counts a report, once. Raises NotFound where its reference is not known, BadInput where it does not fit."""
        version = VersionId(report.model, report.version)
        with self._lock:
            if report.sequence <= self._sequences.get(report.source, -1):
                return
            known = self.told.get(version)
            if known is None or known.digest != report.digest:
                if report.reference is None:
                    raise unknown_reference(report)
                known = DriftCounts.nothing(report.digest, report.reference)
            check_report(report, known.reference)
            self.told[version] = known
            mark(self._sequences, report.source, report.sequence)
            known.rows += report.rows
            known.hits += report.hits
            known.histogram += report.histogram
