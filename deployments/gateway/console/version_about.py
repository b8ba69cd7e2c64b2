"""What a page tells of a version, from the files of its artifact: its report, its profile, and what moves its answers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.artifacts.manifest import Manifest
from deployments.builder.evaluation.quality import Quality
from deployments.builder.report import Report, Variant
from deployments.profiles.form import FeatureKind, Profile, TensorProfile
from deployments.profiles.numbers import ABOVE, BELOW, FIRST, LAST, NumberColumns

Z95 = 1.959964
FEATURES_MOST, CATEGORIES_MOST, BINS = 32, 8, 24


def about(manifest: Manifest, report: Report | None, profile: Profile | None) -> dict[str, Any]:
    """As JSON data; `variants`, `importance` and `profile` are None or empty where the build kept nothing of that."""
    explained = report.explain if report is not None else None
    strongest = [one.feature for one in explained.importance] if explained is not None else []
    return {
        "model": manifest.model,
        "engine": manifest.engine,
        "signature": manifest.signature.model_dump(mode="json"),
        "size_bytes": sum(entry.size_bytes for entry in manifest.files),
        "created_at": manifest.created_at,
        "task": report.task if report is not None else None,
        "variants": [_variant(one, chosen=one.name == report.chosen) for one in report.variants] if report is not None else [],
        "importance": None if explained is None or not strongest else explained.model_dump(mode="json", exclude={"methods"}),
        "profile": None if profile is None else _profile(profile, strongest),
    }


def _variant(one: Variant, *, chosen: bool) -> dict[str, Any]:
    return {
        "name": one.name,
        "chosen": chosen,
        "size_bytes": one.size_bytes,
        "peak_bytes": one.peak_bytes,
        "speedup": one.speedup,
        "speed": {batch: speed.model_dump(mode="json") for batch, speed in one.speed.items()},
        "quality": _quality(one.quality) if one.quality is not None else [],
        "broken": one.broken,
        "skipped": one.skipped,
    }


def _quality(found: Quality) -> list[dict[str, Any]]:
    """Each figure with its 95 % interval where it is a share of rows; of the others the report keeps no spread."""
    told = []
    for name, value in (("accuracy", found.accuracy), ("agreement", found.agreement)):
        if value is not None:
            low, high = share_interval(value, found.rows)
            told.append({"name": name, "value": value, "low": low, "high": high, "rows": found.rows})
    for name, value in (("cross_entropy", found.cross_entropy), ("mse", found.mse)):
        if value is not None:
            told.append({"name": name, "value": value, "low": None, "high": None, "rows": found.rows})
    return told


def share_interval(share: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of so many rows."""
    if rows < 1:
        return 0.0, 1.0
    spread = Z95 * math.sqrt(share * (1 - share) / rows + Z95**2 / (4 * rows**2))
    middle, scale = share + Z95**2 / (2 * rows), 1 + Z95**2 / rows
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def _profile(profile: Profile, strongest: Sequence[str]) -> dict[str, Any]:
    tensors = [_tensor(one, profile.numbers.get(one.key), strongest) for one in profile.summary.tensors]
    return {"rows": profile.summary.rows, "few": profile.summary.few, "tensors": tensors}


def _tensor(tensor: TensorProfile, columns: NumberColumns | None, strongest: Sequence[str]) -> dict[str, Any]:
    """Its features that move answers most; where the build does not know, those that vary most."""
    names, rank = tensor.feature_names(), {name: place for place, name in enumerate(strongest)}
    spread = np.nan_to_num(columns.std) if columns is not None else np.zeros(len(names))
    order = sorted(range(len(names)), key=lambda at: (rank.get(names[at], len(rank)), -spread[at], at))
    shown = order if len(order) <= FEATURES_MOST else [at for at in order if columns is None or spread[at] > 0][:FEATURES_MOST]
    return {
        "side": tensor.side,
        "name": tensor.name,
        "datatype": tensor.datatype,
        "features": tensor.features,
        "kind": tensor.kind,
        "shown": [
            _numbers(names[at], columns, at) if columns is not None else _categories(names[at], tensor, at) for at in shown
        ],
    }


def _numbers(name: str, columns: NumberColumns, at: int) -> dict[str, Any]:
    counts = columns.counts[at]
    bins = [int(part.sum()) for part in np.array_split(counts[FIRST : LAST + 1], BINS)]
    figures = {field: _finite(getattr(columns, field)[at]) for field in ("mean", "std", "lowest", "highest", "lo", "hi")}
    outside = {"missing": int(columns.missing[at]), "below": int(counts[BELOW]), "above": int(counts[ABOVE])}
    return {"name": name, "kind": FeatureKind.NUMBERS, "bins": bins} | figures | outside


def _categories(name: str, tensor: TensorProfile, at: int) -> dict[str, Any]:
    found = tensor.categories[at]
    first = zip(found.names[:CATEGORIES_MOST], found.counts[:CATEGORIES_MOST], strict=True)
    other = found.other + sum(found.counts[CATEGORIES_MOST:])
    return {"name": name, "kind": FeatureKind.CATEGORIES, "top": [list(one) for one in first], "other": other}


def _finite(value: np.float64) -> float | None:
    return float(value) if math.isfinite(value) else None
