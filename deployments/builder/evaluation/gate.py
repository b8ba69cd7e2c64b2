"""The gate of a build: which of the document's limits a variant breaks, and which variant to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deployments.builder.evaluation.neighbours import Neighbours
from deployments.builder.evaluation.quality import Quality
from deployments.builder.report import Variant
from deployments.builder.spec import Gate


def broken(gate: Gate, found: Variant, imported: Variant) -> tuple[str, ...]:
    """One sentence for each limit that the variant breaks; empty where it passes. `imported` is the model before compression."""
    sentences: list[str] = []
    if found.quality and imported.quality:
        sentences += _quality(gate, found.quality, imported.quality)
    return (*sentences, *_alone(gate, found.neighbours), *_cost(gate, found))


def choose(wanted: str | None, variants: Sequence[Variant]) -> Variant | None:
    """The variant of the name wanted, or for None the fastest; None where it breaks the gate or could not be made."""
    passed = [one for one in variants if not one.broken and not one.skipped and wanted in (None, one.name)]
    return max(passed, key=lambda one: one.speedup, default=None)


def _quality(gate: Gate, found: Quality, imported: Quality) -> Iterator[str]:
    if gate.min_agreement is not None and found.agreement < gate.min_agreement:
        yield f"agreement {found.agreement:.4f} is below min_agreement {gate.min_agreement}"
    if gate.max_difference is not None and found.max_difference > gate.max_difference:
        yield f"difference {found.max_difference:.3g} is above max_difference {gate.max_difference}"
    if found.accuracy is not None and imported.accuracy is not None:
        drop = imported.accuracy - found.accuracy
        if gate.max_accuracy_drop is not None and drop > gate.max_accuracy_drop:
            yield f"accuracy falls by {drop:.4f}, more than max_accuracy_drop {gate.max_accuracy_drop}"
        if gate.min_accuracy is not None and found.accuracy < gate.min_accuracy:
            yield f"accuracy {found.accuracy:.4f} is below min_accuracy {gate.min_accuracy}"
    if gate.max_cross_entropy is not None and found.cross_entropy is not None and found.cross_entropy > gate.max_cross_entropy:
        yield f"cross-entropy {found.cross_entropy:.4f} is above max_cross_entropy {gate.max_cross_entropy}"
    if found.mse is not None and imported.mse is not None:
        if gate.max_mse_rise is not None and found.mse > imported.mse * (1 + gate.max_mse_rise):
            yield f"squared error rises from {imported.mse:.4g} to {found.mse:.4g}, more than max_mse_rise {gate.max_mse_rise}"
        if gate.max_mse is not None and found.mse > gate.max_mse:
            yield f"squared error {found.mse:.4g} is above max_mse {gate.max_mse}"


def _alone(gate: Gate, found: Neighbours | None) -> Iterator[str]:
    """What a row's neighbours may do to it."""
    if found is None:
        return
    if not found.steady:
        yield f"it answers differently each time, by up to {found.twice:.3g} on the same rows: is dropout on?"
    if gate.max_neighbour_changes is not None and found.changed > gate.max_neighbour_changes:
        yield f"{found.sentence}, more than max_neighbour_changes {gate.max_neighbour_changes}"


def _cost(gate: Gate, found: Variant) -> Iterator[str]:
    if gate.max_size_bytes is not None and found.size_bytes > gate.max_size_bytes:
        yield f"{found.size_bytes} bytes are more than max_size_bytes {gate.max_size_bytes}"
    alone = found.speed.get("1")
    if gate.max_p99_ms is not None and alone is None and "1" in found.unmeasured:
        yield f"its p99 at batch 1 is not known, as max_p99_ms asks: {found.unmeasured['1']}"
    if gate.max_p99_ms is not None and alone is not None and alone.p99_ms > gate.max_p99_ms:
        yield f"p99 of {alone.p99_ms:.3f} ms at batch 1 is above max_p99_ms {gate.max_p99_ms}"
    if gate.max_memory_bytes is not None and found.peak_bytes is not None and found.peak_bytes > gate.max_memory_bytes:
        yield f"{found.peak_bytes} bytes of memory are more than max_memory_bytes {gate.max_memory_bytes}"
