"""Explains chosen records in the place where a stream scores all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from cluster.errors import BadInput, EngineFailure, Forbidden, NoCapacity, Unreachable
from cluster.signature import Signature
from consumers.stream.codecs.codec import Decoded
from consumers.stream.explain.choosing import Mask, holding, sampled, split_conditions
from consumers.stream.explain.section import ExplainWhere, StreamExplain
from consumers.stream.intake import Intake, ScorerPort
from consumers.stream.micro_batch import MicroBatch
from consumers.stream.outgoing.answers import split_keys
from consumers.stream.spec import StreamSpec
from deployments.engines.datatypes import Array
from deployments.explain.asking import section_options
from deployments.explain.form import ExplainOptions, Explanation
from deployments.explain.strongest import strongest
from deployments.gateway.protocol.explanations import explanation_document
from deployments.scoring.port import Explained, Scored
from deployments.scoring.rows import take

T = TypeVar("T")

BODY = "explanation"
_OF_EVERY_FEATURE = ("attributions", "standard_errors", "groups", "grouped")
# Between tries of one record: users of the replicas go first.
PAUSES_S = (0.1, 0.3, 1.0, 3.0, 10.0)


class ExplainPort(ScorerPort, Protocol):
    """What a worker that explains needs; `deployments.scoring.scorer_thread.ScorerThread` is one."""

    def version_of(self, model: str, key: bytes | None) -> int:
        """The version that answers a caller of this key. Raises NotFound."""

    def score(
        self,
        model: str,
        tensors: Mapping[str, Array],
        keys: Sequence[bytes | None] | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Scored:
        """Scores and waits; see `Scorer.score`."""

    def submit_explain(
        self,
        model: str,
        tensors: Mapping[str, Array],
        options: ExplainOptions,
        key: bytes | None = None,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Future[Explained]:
        """Begins to explain; see `RoutedScorer.explain`."""


TellExplained = Callable[[int, int], None]
"""Told of a version, and how many rows of its answers were explained."""


def untold(_version: int, _rows: int) -> None:
    """Nobody is told."""


class ExplainIntake(Intake):
    """Takes as a stream does. What it gives for a record is the JSON of its explanation; for most records it gives nothing."""

    def __init__(
        self,
        spec: StreamSpec,
        section: StreamExplain,
        scoring: ExplainPort,
        stop: threading.Event,
        explained: TellExplained = untold,
    ) -> None:
        """`spec` is what `explain_spec` made. Once `stop` is set, nothing is waited for any more. `explained` is told of the rows
        that were."""
        super().__init__(spec, scoring)
        self._section, self._explains, self._stop, self._told = section, scoring, stop, explained
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")

    def score(self, batch: MicroBatch) -> None:
        """See Intake. Reads the sample; the rest is done beside the loop."""
        signature = self._scoring.signature(self._spec.model)
        decoder, _ = self._codecs.of(signature)
        batch.encoder = _Bodies()
        chosen = sampled(batch.slices, self._section.sample or 1.0)
        keys = [key for records in batch.slices for key in split_keys(records)]
        headers = [each for records in batch.slices for each in records.headers]
        # What can't be read, or decoded, is a dead letter of the stream itself.
        batch.slices = [replace(records, unreadable={}) for records in batch.slices]
        if chosen:
            decoded = decoder.decode([batch.values[row] for row in chosen], [headers[row] for row in chosen])
            batch.decoded = Decoded(decoded.tensors, [chosen[row] for row in decoded.rows], {})
        else:
            batch.decoded = Decoded({}, [], {})
        batch.scored = self._thread.submit(self._explained, batch, [keys[row] for row in batch.decoded.rows], signature)

    def close(self) -> None:
        """See Intake."""
        super().close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _explained(self, batch: MicroBatch, keys: Sequence[bytes | None], signature: Signature) -> Scored:
        """In a thread of its own. Leaves in `batch` the records that conditions choose."""
        decoded = batch.decoded
        if decoded is None or not len(decoded.rows):
            return _scored([], [])
        options = section_options(self._section, signature)
        model, rows = self._spec.model, np.arange(len(decoded.rows))
        versions = np.array([self._explains.version_of(model, key) for key in keys], np.int32)
        of_inputs, of_outputs = split_conditions(self._section.where, signature)
        rows = rows[holding(of_inputs, decoded.tensors, len(rows))]
        rows = rows[self._answered_so(of_outputs, take(decoded.tensors, rows), versions[rows])]
        batch.decoded = Decoded(take(decoded.tensors, rows), [decoded.rows[row] for row in rows.tolist()], {})
        bodies = [
            self._body(take(decoded.tensors, np.array([row])), int(versions[row]), options, signature) for row in rows.tolist()
        ]
        for version, explained in zip(*np.unique(versions[rows], return_counts=True), strict=True):
            self._told(int(version), int(explained))
        return _scored(bodies, versions[rows].tolist())

    def _answered_so(
        self,
        conditions: Sequence[ExplainWhere],
        tensors: Mapping[str, Array],
        versions: npt.NDArray[np.int32],
    ) -> Mask:
        """Which rows are answered as the conditions say, each by its version. Rows that the version fails are not."""
        found = np.ones(len(versions), np.bool_)
        if not conditions:
            return found
        for version in np.unique(versions).tolist():
            theirs = np.flatnonzero(versions == version)
            part = take(tensors, theirs)
            scored = self._patiently(partial(self._explains.score, self._spec.model, part, version=version))
            found[theirs] = holding(conditions, scored.outputs, len(theirs))
            found[theirs[list(scored.errors)]] = False
        return found

    def _body(self, row: Mapping[str, Array], version: int, options: ExplainOptions, signature: Signature) -> bytes:
        try:
            explained = self._patiently(
                lambda: self._explains.submit_explain(self._spec.model, row, options, version=version).result()
            )
        except (
            BadInput,
            EngineFailure,
            Forbidden,
        ) as error:  # told where it is looked for
            return orjson.dumps({"too_rough": True, "why": str(error)})
        return explanation_body(explained.explanations[0], signature, self._section)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Asks again where there is no room. Raises what the last try does: then the loop holds, and tries again."""
        for pause_s in PAUSES_S:
            try:
                return ask()
            except (NoCapacity, Unreachable):
                if self._stop.wait(pause_s):
                    raise
        return ask()


def explanation_body(one: Explanation, signature: Signature, section: StreamExplain) -> bytes:
    """An explanation as a record's value: JSON as V1 has it; with `top`, names and values of the strongest features only."""
    document = explanation_document(one, signature)
    if section.top is not None:
        worth = strongest(one, section.top)
        document = {"features": [each.feature for each in worth], "values": [each.worth for each in worth]} | {
            name: value
            for name, value in document.items()
            if name not in ("attributions", "standard_errors", "groups", "grouped")
        }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


class _Bodies:
    """Implements Encoder for what is written already."""

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """See Encoder."""
        bodies: list[bytes] = outputs[BODY].tolist()
        return bodies


def _scored(bodies: Sequence[bytes], versions: Sequence[int]) -> Scored:
    told = np.empty(len(bodies), np.object_)
    told[:] = bodies
    return Scored({BODY: told}, np.array(versions, np.int32), {})
