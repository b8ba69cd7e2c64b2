"""A model whose late labels are taken at all times, and labels of it."""

from __future__ import annotations

from typing import Any

from tests.support.brain import SIGNATURE, Brain

BUILT = {"rows": 2000, "accuracy": 0.95}
LABELS: dict[str, Any] = {"output": "output", "tolerance": 0.02}


def with_labels(brain: Brain, quality: dict[str, Any] = BUILT, **section: Any) -> int:
    """The model `digits` takes labels, and a version that was built so is there: its number."""
    applied = brain.call("model.show", model="digits")
    document = {"name": "digits", "rollout": applied["plan"], "serving": applied["serving"], "labels": {**LABELS, **section}}
    brain.call("apply", models=[document])
    made = {"artifact_uri": "file:///built", "digest": "built", "engine": "onnx", "signature": SIGNATURE}
    return int(brain.call("version.register", model="digits", **made, quality=quality)["version"])


def labels_of(brain: Brain, version: int, right: int, wrong: int, first: int = 0, age_s: float = 0.0) -> list[dict[str, Any]]:
    """Of answers 7 that were given so long ago."""
    given = f"{version}/7@{int(brain.clock.now_s - age_s)}"
    told = [7] * right + [1] * wrong
    return [{"key": f"0/{given}/in/0/{first + number}", "label": label} for number, label in enumerate(told)]


def tell_labels(brain: Brain, version: int, right: int, wrong: int, first: int = 0, **more: Any) -> dict[str, Any]:
    """Tells them; what they came to."""
    labels = labels_of(brain, version, right, wrong, first)
    return brain.call("rollout.label", model="digits", labels=labels, **more)
