"""Recorded requests put to a candidate before it gets any traffic: what is asked of it, and what came of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from cluster.section import Section


class Preflight(Section):
    """The `rollout.preflight` section. Rows agree as in a shadow: within `tolerance`, or without one by the argmax."""

    payloads: str = Field(min_length=1, description="a payload log: a path or URI that the head node reaches, or topic:NAME")
    max_different: float = Field(default=0.05, ge=0, le=1, description="share of rows that may be answered differently")
    max_errors: float = Field(default=0.0, ge=0, le=1, description="share of rows that may fail which were answered then")
    min_rows: int = Field(default=100, ge=1, description="so many must have been answered then, else nothing is shown")
    max_requests: int = Field(default=10_000, ge=1, le=1_000_000, description="the log's first so many")
    tolerance: float | None = Field(default=None, ge=0)


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """Rows that were answered when they were recorded, by what the candidate does with them; and its p99 in ms, by request."""

    same: int
    different: int
    failed: int
    p99_ms: float

    @property
    def rows(self) -> int:
        """How many rows it rests on."""
        return self.same + self.different + self.failed

    @property
    def words(self) -> str:
        """In a line."""
        shares = f"{_share(self.different, self.rows)} answered differently, {_share(self.failed, self.rows)} failed"
        return f"{self.rows:,} recorded rows: {shares}, p99 {self.p99_ms:.3g} ms"


def objection(asked: Preflight, result: PreflightResult) -> str:
    """Why the candidate is not let on; empty where it is."""
    if result.rows < asked.min_rows:
        few = f"{result.rows:,} answered rows lie in {asked.payloads}, and {asked.min_rows:,} are asked for"
        return f"its preflight shows nothing: {few}"
    if result.failed > asked.max_errors * result.rows:
        return f"its preflight failed: {result.words}; {asked.max_errors:.3g} of them may fail"
    if result.different > asked.max_different * result.rows:
        return f"its preflight failed: {result.words}; {asked.max_different:.3g} of them may differ"
    return ""


def _share(rows: int, of: int) -> str:
    return f"{100 * rows / of:.3g} %" if of else "none"
