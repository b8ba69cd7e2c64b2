"""From a scored micro-batch to what leaves for it: answers, dead letters, tombstones that pass. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import BadInput
from consumers.stream.log.port import Header, Origins, Outgoing, Records, TopicLimits
from consumers.stream.micro_batch import MicroBatch, SliceOutcome
from consumers.stream.outgoing.acceptable import acceptable_letters, unfit
from consumers.stream.outgoing.answers import (
    AnswerTemplate,
    DeadLetterReason,
    Stage,
    dead_letter_records,
    output_records,
    prediction_ids,
)
from consumers.stream.payloads.taken import PayloadTaker, TakenPayloads
from consumers.stream.refusals import Place, Refused
from consumers.stream.sealed.sealing import AnswerSealer
from consumers.stream.spec import OnEmpty, StreamSpec
from deployments.drift.drift_sample import of_rows
from deployments.observe.traces.span import Span
from deployments.scoring.port import Scored

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is the same for all micro-batches of a stream: `partitions` and `limits_of` by topic that it writes. `sealer` encrypts
    fields of answers, where the document says so."""

    stream: str
    spec: StreamSpec
    form: AnswerTemplate
    partitions: Mapping[str, int]
    limits_of: Callable[[str], TopicLimits]
    sealer: AnswerSealer | None = None

    def of(self, batch: MicroBatch, scored: Scored, now_ms: int, refused: Mapping[Place, Refused]) -> list[SliceOutcome]:
        """One a slice, in order, at this time (Unix, ms). `refused` are records that the broker did not take before."""
        decoded, encoder = batch.decoded, batch.encoder
        if decoded is None or encoder is None:
            raise RuntimeError("scored before it was decoded")
        bodies: list[bytes] = encoder.encode(scored.outputs) if len(scored.versions) else []
        positions = np.asarray(decoded.rows, dtype=np.int64)
        answered = np.ones(len(positions), dtype=np.bool_)
        answered[list(scored.errors)] = False
        dead = {row: DeadLetterReason(Stage.DECODING, error) for row, error in decoded.errors.items()}
        dead |= {int(positions[j]): DeadLetterReason(Stage.SCORING, error) for j, error in scored.errors.items()}
        if self.sealer is not None and bodies:
            bodies, unsealed = self.sealer.sealed(bodies, *_about_rows(batch, positions))
            answered[list(unsealed)] = False
            dead = {int(positions[j]): DeadLetterReason(Stage.WRITING, error) for j, error in unsealed.items()} | dead
        unreadable = _unreadable(batch)
        again = _again(batch, refused) if refused else {}
        passed = self._passed(batch, dead, {*unreadable, *again})
        if unreadable:
            answered &= ~np.isin(positions, list(unreadable))
            dead |= unreadable
        if again:
            answered &= ~np.isin(positions, list(again))
            dead = {row: DeadLetterReason(Stage.WRITING, why.error) for row, why in again.items()} | dead
        settings = scored.payloads
        taker = PayloadTaker(settings, self.spec.model, decoded.tensors, scored, now_ms) if settings is not None else None
        made: list[SliceOutcome] = []
        begin = 0
        for records in batch.slices:
            end = begin + len(records)
            first, last = np.searchsorted(positions, (begin, end)).tolist()
            chosen = first + np.flatnonzero(answered[first:last])
            here = {row - begin: why for row, why in dead.items() if begin <= row < end} if dead else {}
            tombstones = [row - begin for row in passed if begin <= row < end]
            out = self._answers(records, chosen, positions[chosen] - begin, bodies, scored, here, now_ms)
            out += self._tombstones(records, tombstones, here, now_ms)
            dead_letters = self._dead_letters(records, here, {row - begin: why for row, why in again.items()}, now_ms)
            if records.spans:
                _tell(records.spans, scored, positions[first:last] - begin, first, here)
            taken = np.arange(first, last)
            payloads = _payloads(taker, records, taken, positions[taken] - begin, here) if taker is not None else None
            left = taken[np.isin(positions[taken] - begin, list(here))] if here else taken[:0]
            drawn = of_rows(scored.drawn, first, last, left) if scored.drawn else ()
            rows_out = sum(map(len, out))
            whole = (*out, *dead_letters)
            offset, upto, rows_dead = records.offsets[0], records.offsets[-1] + 1, sum(map(len, dead_letters))
            made.append(
                SliceOutcome(
                    records.partition,
                    records.epoch,
                    offset,
                    upto,
                    whole,
                    len(records),
                    rows_out,
                    rows_dead,
                    records.timestamps_ms[0],
                    _by_version(scored, [j for j in chosen if int(positions[j]) - begin not in here] if here else chosen),
                    Counter(why.error.kind for why in here.values()),
                    payloads,
                    tuple(records.spans.values()),
                    drawn,
                )
            )
            begin = end
        return made

    def _answers(
        self,
        records: Records,
        chosen: Rows,
        rows: Rows,
        bodies: list[bytes],
        scored: Scored,
        dead: dict[int, DeadLetterReason],
        now_ms: int,
    ) -> list[Outgoing]:
        """Of the scored rows `chosen`, which are `rows` of the records. Those that can't be written are added to `dead`."""
        if not len(chosen):
            return []
        out = self._outputs(records, chosen, rows, bodies, scored)
        if refused := unfit(out, self.limits_of(self.spec.output.topic), now_ms):
            dead |= {int(rows[j]): why for j, why in refused.items()}
            out = self._outputs(records, np.delete(chosen, list(refused)), np.delete(rows, list(refused)), bodies, scored)
        return [out] if len(out) else []

    def _outputs(self, records: Records, chosen: Rows, rows: Rows, bodies: list[bytes], scored: Scored) -> Outgoing:
        answers, label_keys = [bodies[j] for j in chosen.tolist()], scored.label_keys
        if self.sealer is not None:
            label_keys = None  # they hold the answer in clear
        keys = [label_keys[j] for j in chosen.tolist()] if label_keys is not None else None
        unlike = scored.outliers[chosen].tolist() if scored.outliers is not None else None
        versions, partitions = scored.versions[chosen], self.partitions[self.spec.output.topic]
        return output_records(
            records,
            rows.tolist(),
            answers,
            versions,
            form=self.form,
            partitions=partitions,
            label_keys=keys,
            outliers=unlike,
        )

    def _tombstones(
        self, records: Records, rows: Sequence[int], dead: dict[int, DeadLetterReason], now_ms: int
    ) -> list[Outgoing]:
        """Rows without a value that pass. Those that can't be written are added to `dead`."""
        if not rows:
            return []
        out = self._passing(records, rows)
        if refused := unfit(out, self.limits_of(self.spec.output.topic), now_ms):
            dead |= {rows[j]: why for j, why in refused.items()}
            out = self._passing(records, [row for j, row in enumerate(rows) if j not in refused])
        return [out] if len(out) else []

    def _passing(self, records: Records, rows: Sequence[int]) -> Outgoing:
        versions = np.zeros(len(rows), dtype=np.int32)
        partitions = self.partitions[self.spec.output.topic]
        return output_records(records, rows, [None] * len(rows), versions, form=self.form, partitions=partitions)

    def _dead_letters(
        self, records: Records, dead: Mapping[int, DeadLetterReason], again: Mapping[int, Refused], now_ms: int
    ) -> list[Outgoing]:
        if not dead:
            return []
        to, extra_headers, rows = self.spec.dead_letters.topic, self.form.extra_headers, sorted(dead)
        dead_letters = dead_letter_records(
            records, dead, stream=self.stream, topic=to, partitions=self.partitions[to], extra_headers=extra_headers
        )
        origin, offsets = records.origin
        ids = prediction_ids(Origins(origin, [offsets[row] for row in rows]))
        legal = [j for j, row in enumerate(rows) if row in again and again[row].legal]
        bare = [j for j, row in enumerate(rows) if row in again and again[row].bare]
        return [acceptable_letters(dead_letters, self.limits_of(to), now_ms, ids, legal=legal, bare=bare)]

    def _passed(self, batch: MicroBatch, dead: dict[int, DeadLetterReason], kept: Collection[int]) -> list[int]:
        """Rows without a value that the document lets through; they are taken out of `dead`, but for those of `kept`."""
        if self.spec.input.on_empty is not OnEmpty.PASS:
            return []
        passed = [row for row in dead if batch.values[row] is None and row not in kept]
        for row in passed:
            del dead[row]
        return passed


def _about_rows(batch: MicroBatch, positions: Rows) -> tuple[list[bytes | None], list[Sequence[Header]]]:
    """Keys and headers of the records at these places of the micro-batch."""
    keys = [key for records in batch.slices for key in records.keys]
    headers = [each for records in batch.slices for each in records.headers]
    return [keys[place] for place in positions.tolist()], [headers[place] for place in positions.tolist()]


def _by_version(scored: Scored, rows: Sequence[int] | Rows) -> dict[int, int]:
    """How many of these rows each version answered."""
    if not len(rows):
        return {}
    numbers, counts = np.unique(scored.versions[rows], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def _payloads(taker: PayloadTaker, records: Records, rows: Rows, places: Rows, dead: Collection[int]) -> TakenPayloads:
    """Of the slice whose records are at these rows of the tensors, and at these places in it."""
    answered = ~np.isin(places, list(dead)) if dead else np.ones(len(places), np.bool_)
    return taker.of(records, rows, places, answered)


def _tell(spans: Mapping[int, Span], scored: Scored, rows: Rows, first: int, dead: Mapping[int, DeadLetterReason]) -> None:
    """What became of the traced records of a slice, of which these rows were scored, the first of them as row `first`."""
    for row, span in spans.items():
        at = int(np.searchsorted(rows, row))
        if at < len(rows) and rows[at] == row:
            span.attributes["headrace.version"] = int(scored.versions[first + at])
        if row in dead:
            span.error = dead[row].error.kind


def _unreadable(batch: MicroBatch) -> dict[int, DeadLetterReason]:
    found, begin = {}, 0
    for records in batch.slices:
        for row, why in records.unreadable.items():
            error = BadInput(why, where="record", remedy="look at it with the broker's own tools; it can't be read")
            found[begin + row] = DeadLetterReason(Stage.DECODING, error)
        begin += len(records)
    return found


def _again(batch: MicroBatch, refused: Mapping[Place, Refused]) -> dict[int, Refused]:
    """Which rows the broker refused when they were taken before."""
    found, begin = {}, 0
    for records in batch.slices:
        for row, offset in enumerate(records.offsets):
            if why := refused.get((records.partition, offset)):
                found[begin + row] = why
        begin += len(records)
    return found
