"""The gate of a build: which of the document's limits a variant breaks."""

from __future__ import annotations

from collections.abc import Iterator

from deployments.build.quality import Quality
from deployments.build.spec import Gate


def broken(gate: Gate, found: Quality, imported: Quality, *, size_bytes: int) -> tuple[str, ...]:
    """One sentence for each limit that the variant breaks; empty where it passes. `imported` is the model before compression."""
    return tuple(_broken(gate, found, imported, size_bytes))


def _broken(gate: Gate, found: Quality, imported: Quality, size_bytes: int) -> Iterator[str]:
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
    if gate.max_size_bytes is not None and size_bytes > gate.max_size_bytes:
        yield f"{size_bytes} bytes are more than max_size_bytes {gate.max_size_bytes}"
