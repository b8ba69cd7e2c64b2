"""What scorers tell of rows, on its way to the detectors: added up, and counted once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cluster.drift.counts import DriftReference, DriftReport, Numbers, check_report, unknown_reference
from cluster.rollout.evidence import mark
from cluster.versions import VersionId


@dataclass(frozen=True, slots=True)
class DriftCounts:
    """What was counted of one version since the last look: arrays as in a report, added to in place."""

    digest: str
    reference: DriftReference
    rows: Numbers
    hits: Numbers
    histogram: Numbers

    @classmethod
    def nothing(cls, digest: str, reference: DriftReference) -> DriftCounts:
        """Of a version that is new here."""
        features, rates = len(reference.features), len(reference.hits)
        histogram = np.zeros_like(reference.histogram, np.int64)
        return cls(digest, reference, np.zeros(features, np.int64), np.zeros(rates, np.int64), histogram)

    def emptied(self) -> DriftCounts:
        """The same version, with nothing counted."""
        return self.nothing(self.digest, self.reference)


class DriftInbox:
    """Used from any thread: a push adds arrays up and returns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[VersionId, DriftCounts] = {}
        self._sequences: dict[str, int] = {}

    def take(self, report: DriftReport) -> None:
        """Counts a report, once. Raises NotFound where its reference is not known, BadInput where it does not fit."""
        version = VersionId(report.model, report.version)
        with self._lock:
            if report.sequence <= self._sequences.get(report.source, -1):
                return
            known = self._told.get(version)
            bare = report.reference is not None and not report.reference.features
            if bare and known is not None and known.reference.features:
                return  # who tells that it has no profile knows less than who has read it
            if known is None or known.digest != report.digest:
                if report.reference is None:
                    raise unknown_reference(report)
                check_report(report, report.reference)
                known = DriftCounts.nothing(report.digest, report.reference)
            check_report(report, known.reference)
            self._told[version] = known
            mark(self._sequences, report.source, report.sequence)
            np.add(known.rows, report.rows, out=known.rows)
            np.add(known.hits, report.hits, out=known.hits)
            np.add(known.histogram, report.histogram, out=known.histogram)

    def without_profile(self) -> set[VersionId]:
        """The versions that have scored rows, and of which scorers say that they have no profile."""
        with self._lock:
            return {version for version, counts in self._told.items() if not counts.reference.features}

    def drain(self, lives: Callable[[VersionId], bool]) -> Mapping[VersionId, DriftCounts]:
        """All that was counted since the last time, of versions of which any was; forgets versions that are no more."""
        with self._lock:
            told = {version: counts for version, counts in self._told.items() if lives(version)}
            counted = {version: counts for version, counts in told.items() if counts.rows.any()}
            self._told = {version: counts.emptied() if version in counted else counts for version, counts in told.items()}
        return counted
