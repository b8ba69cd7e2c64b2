"""Which records of a scored slice are kept, with what was asked and answered. Pure but for the clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.watch.catalogue import ScoringWay
from cluster.watch.payloads import Payloads
from consumers.stream.log.port import Header, Records
from deployments.engines.datatypes import Array
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome
from deployments.observe.payloads.log import kept
from deployments.observe.payloads.sampling import sampled_places, weight_of
from deployments.scoring.port import Scored

_TRACEPARENT = "traceparent"
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TakenPayloads:
    """What of a slice goes to the payload log once it is committed."""

    settings: Payloads
    events: Sequence[PayloadEvent]


@dataclass(frozen=True, slots=True)
class PayloadTaker:
    """Of one scored micro-batch of a model: row j of `tensors` and `scored` is the same record."""

    settings: Payloads
    model: str
    tensors: Mapping[str, Array]
    scored: Scored
    now_ms: int

    def of(self, records: Records, rows: Rows, places: Rows, answered: Mask) -> TakenPayloads:
        """Of the slice's records at these rows of the tensors: `places` is where each lies in it, and `answered` tells which
        leave with an answer; of the others, those are errors that the model could not score."""
        settings, errors = self.settings, self.scored.errors
        events = list(self._events(records, rows[answered], places[answered], settings.sample))
        if errors:
            failed = np.isin(rows, list(errors))
            events += self._events(records, rows[failed], places[failed], settings.errors)
        return TakenPayloads(settings, events)

    def _events(self, records: Records, rows: Rows, places: Rows, share: float) -> Iterator[PayloadEvent]:
        (topic, number), offsets = records.origin
        partition = f"{topic}/{number}"
        chosen = sampled_places(partition, np.asarray(offsets)[places], share, self.settings.seed)
        if not len(chosen):
            return
        scored, taken = self.scored, rows[chosen]
        # One copy of all that are kept: an event has its row of it.
        inputs, versions = kept(self.tensors, self.settings, taken), np.asarray(scored.versions[taken], np.int32)
        failed = [scored.errors.get(row) for row in taken.tolist()] if scored.errors else [None] * len(taken)
        outputs = {} if all(failed) else kept(scored.outputs, self.settings, taken)
        labels = scored.label_keys
        at_s, weight = self.now_ms / 1000, weight_of(share)
        for each, (at, row, version, error) in enumerate(
            zip(places[chosen].tolist(), taken.tolist(), versions.tolist(), failed, strict=True)
        ):
            prediction, one = f"{partition}/{offsets[at]}", slice(each, each + 1)
            yield PayloadEvent(
                prediction,
                at_s,
                ScoringWay.STREAM,
                self.model,
                version,
                PayloadOutcome.OK if error is None else PayloadOutcome.ERROR,
                weight,
                _row(inputs, one),
                _row(outputs, one) if error is None else None,
                versions[one],
                error="" if error is None else error.kind,
                trace_id=_trace_id(records.headers[at]),
                label_keys=(f"{labels[row]}/{prediction}",) if labels is not None and labels[row] else (),
            )


def _row(tensors: Mapping[str, Array], one: slice) -> dict[str, Array]:
    """Views, but of texts: one event that is kept would hold the texts of all, which are as long as they like."""
    return {name: tensor[one].copy() if tensor.dtype.hasobject else tensor[one] for name, tensor in tensors.items()}


def _trace_id(headers: Iterable[Header]) -> str:
    """That of the record's `traceparent`; empty where it has none, or no good one."""
    for name, value in headers:
        if name == _TRACEPARENT and value is not None:
            parts = value.decode("ascii", "replace").split("-")
            return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 and parts[1].isalnum() else ""
    return ""
