from __future__ import annotations

import pytest

from deployments.builder.evaluation.gate import broken, choose
from deployments.builder.evaluation.quality import Quality
from deployments.builder.report import Speed, Variant
from deployments.builder.spec import Gate


def variant(name: str = "x", *, speedup: float = 1.0, **changes: object) -> Variant:
    quality = {"rows": 100, "accuracy": 0.95, "cross_entropy": 0.2, "agreement": 1.0, "max_difference": 0.0}
    own = {key: value for key, value in changes.items() if key in Quality.model_fields}
    rest = {key: value for key, value in changes.items() if key not in own}
    speed = {str(batch): Speed(rows_per_s=1, p50_ms=1, p99_ms=2, speedup=speedup) for batch in (1, 64, 1024)}
    return Variant(name=name, size_bytes=100, speed=speed, peak_bytes=50, quality=Quality(**(quality | own)), **rest)


IMPORTED = variant("imported")


@pytest.mark.parametrize(
    ("gate", "changes", "word"),
    [
        (Gate(), {"agreement": 0.9}, "min_agreement"),
        (Gate(), {"accuracy": 0.93}, "max_accuracy_drop"),
        (Gate(min_accuracy=0.97), {}, "min_accuracy"),
        (Gate(max_cross_entropy=0.1), {}, "max_cross_entropy"),
        (Gate(max_difference=0.1), {"max_difference": 0.2}, "max_difference"),
        (Gate(max_size_bytes=99), {}, "max_size_bytes"),
        (Gate(max_p99_ms=1.0), {}, "max_p99_ms"),
        (Gate(max_memory_bytes=49), {}, "max_memory_bytes"),
        (Gate(max_mse=0.5), {"mse": 0.6}, "max_mse"),
    ],
)
def test_each_limit_breaks_by_its_name(gate: Gate, changes: dict[str, object], word: str) -> None:
    imported = IMPORTED if "mse" not in changes else variant("imported", mse=0.6)
    (sentence,) = broken(gate, variant(**changes), imported)
    assert word in sentence


def test_within_the_limits_nothing_is_broken() -> None:
    assert broken(Gate(), variant(agreement=0.985, accuracy=0.945), IMPORTED) == ()


def test_squared_error_may_rise_by_a_share() -> None:
    imported = variant("imported", mse=100.0)
    assert broken(Gate(), variant(mse=104.0), imported) == ()
    assert "max_mse_rise" in broken(Gate(), variant(mse=106.0), imported)[0]


def test_auto_keeps_the_fastest_that_passes() -> None:
    fastest = variant("fastest", speedup=4, broken=("too wrong",))
    unmade = Variant(name="unmade", skipped="no")
    assert choose(None, [IMPORTED, variant("good", speedup=2), fastest, unmade]).name == "good"


def test_what_was_asked_for_is_kept_or_nothing() -> None:
    slow = variant("int8", speedup=0.5)
    assert choose("int8", [IMPORTED, slow]) is slow
    assert choose("int8", [IMPORTED, variant("int8", broken=("too wrong",))]) is None
