"""How often a version is right where no labels come, as far as it tells by how sure it is. An estimate: never acted on.

The share of the build's rows that were right, in each bucket of confidence, weighted by how many live answers lie in it (the idea
of NannyML's CBPE). It follows inputs that have become harder, and knows nothing of a world that has changed what is right.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.versions import BuiltQuality


def estimated_loss(built: BuiltQuality | None, counts: Sequence[int]) -> float | None:
    """The share of wrong answers, of live ones so spread over CONFIDENCES; None where the build or they tell nothing.

    A bucket of few rows at build leans on the accuracy over all: by as much as one row.
    """
    if built is None or built.accuracy is None or built.confidence is None or not sum(counts):
        return None
    sure, accuracy = built.confidence, built.accuracy
    if not len(sure.rows) == len(sure.right) == len(counts):
        return None  # of a release with other buckets
    rights = [(right + accuracy) / (rows + 1) for rows, right in zip(sure.rows, sure.right, strict=True)]
    return 1.0 - sum(count * right for count, right in zip(counts, rights, strict=True)) / sum(counts)
