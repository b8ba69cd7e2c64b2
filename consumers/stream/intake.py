"""How records come in: taken from the log as micro-batches, decoded, and given to the scorer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

import numpy as np

from cluster.signature import Signature
from consumers.stream.codecs.formats import Codecs
from consumers.stream.commits import cut_up
from consumers.stream.log.port import Log, Records
from consumers.stream.micro_batch import MicroBatch
from consumers.stream.outgoing.answers import split_keys
from consumers.stream.sealed.book import SubjectBook
from consumers.stream.spec import StreamSpec
from consumers.stream.traced import RecordTracer, scoring, within
from deployments.engines.datatypes import Array
from deployments.scoring.port import Scored


class ScorerPort(Protocol):
    """What a worker needs of a scorer; `deployments.scoring.scorer_thread.ScorerThread` is one. Safe to call from any thread."""

    def submit(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        donated: bool = False,
        outliers: bool = False,
    ) -> Future[Scored]:
        """Starts scoring n rows and returns at once. See `Scorer.score`, all of whose errors the future raises, and
        `Scored.outliers`."""

    def signature(self, model: str, version: int | None = None) -> Signature:
        """The signature of the stable version. Raises NotFound while no version is served."""


class Intake:
    """Of one worker, used from its thread. `backlog`: the last micro-batch was whole, so another waits."""

    def __init__(
        self, spec: StreamSpec, scoring: ScorerPort, tracer: RecordTracer | None = None, subjects: SubjectBook | None = None
    ) -> None:
        self._spec, self._scoring, self._tracer = spec, scoring, tracer
        self._codecs = Codecs(spec, subjects)
        self.backlog = False

    def take(self, log: Log, most_rows: int | None, timeout_s: float) -> list[MicroBatch]:
        """One micro-batch; several where a commit may hold no more than `most_rows`. Raises what `Log.poll` raises."""
        spec = self._spec
        most = min(spec.max_batch_rows, most_rows or spec.max_batch_rows)
        slices = gather(log, most, spec.max_in_flight_bytes, linger_s=spec.linger_ms / 1000, timeout_s=timeout_s)
        if self._tracer is not None:
            slices = self._tracer.taken(slices)
        rows = sum(map(len, slices))
        self.backlog = rows >= most and most_rows is None
        if not rows:
            return []
        return [MicroBatch.of(part) for part in (cut_up(slices, most) if most_rows else [slices])]

    def score(self, batch: MicroBatch) -> None:
        """Decodes it and begins to score it. Raises NotFound, BadInput and Unreachable where that can't be done now."""
        decoder, batch.encoder = self._codecs.of(self._scoring.signature(self._spec.model))
        headers = [each for s in batch.slices for each in s.headers]
        with within(batch.span, "decode"):
            batch.decoded = decoded = decoder.decode(batch.values, headers)
        if not decoded.rows:
            batch.scored = Future()
            batch.scored.set_result(Scored({}, np.empty(0, dtype=np.int32), {}))
            return
        keys = [key for s in batch.slices for key in split_keys(s)]
        if len(decoded.rows) != len(keys):
            keys = [keys[row] for row in decoded.rows]
        outliers = self._spec.output.outliers
        submit = partial(self._scoring.submit, self._spec.model, decoded.tensors, keys, donated=True, outliers=outliers)
        batch.scored = scoring(batch.span, submit)

    def close(self) -> None:
        """Ends what the codecs have open."""
        self._codecs.close()


def gather(log: Log, most_rows: int, most_bytes: int, *, linger_s: float, timeout_s: float) -> list[Records]:
    """Records until there are so many rows or bytes, or `linger_s` after the first; none where none came for `timeout_s`.

    Raises what `Log.poll` raises.
    """
    slices = log.poll(max_rows=most_rows, timeout_s=timeout_s)
    rows, size_bytes = sum(map(len, slices)), sum(s.size_bytes for s in slices)
    closes_s = time.monotonic() + linger_s
    while 0 < rows < most_rows and size_bytes < most_bytes and (left_s := closes_s - time.monotonic()) > 0:
        more = log.poll(max_rows=most_rows - rows, timeout_s=left_s)
        slices += more
        rows += sum(map(len, more))
        size_bytes += sum(s.size_bytes for s in more)
    return slices
