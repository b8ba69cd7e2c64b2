"""How much is left of what somebody may ask for: a bucket that fills at a steady rate. A function of values and a given clock."""

from __future__ import annotations

from dataclasses import dataclass

BURST_S = 1.0  # so much time's worth may be asked for at once


@dataclass(slots=True)
class Bucket:
    """Fills with `rate_per_s`, up to `most`; `left` was in it at `at_s`. One that is not empty gives any amount, and owes it
    then: so a request with more rows than a second's is taken too, and those after it wait the longer."""

    rate_per_s: float
    most: float
    left: float
    at_s: float

    @classmethod
    def full(cls, rate_per_s: float, now_s: float, most: float | None = None) -> Bucket:
        """A new one, of a size of BURST_S where none is given, and of 1 at least."""
        size = max(rate_per_s * BURST_S, 1.0) if most is None else most
        return cls(rate_per_s, size, size, now_s)

    def fill(self, now_s: float) -> float:
        """What is in it now."""
        self.left = min(self.left + (now_s - self.at_s) * self.rate_per_s, self.most)
        self.at_s = now_s
        return self.left

    def take(self, amount: float) -> None:
        """Takes so much, which was asked for after `fill`."""
        self.left -= amount
