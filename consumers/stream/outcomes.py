"""From a scored micro-batch to what leaves for it: answers, dead letters, tombstones that pass. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import BadInput
from consumers.stream.answers import Dead, Form, Stage, cut, dead_records, output_records, oversized, too_large
from consumers.stream.log import Outgoing, Records
from consumers.stream.micro_batch import MicroBatch, Outcome
from consumers.stream.spec import OnEmpty, StreamSpec
from deployments.scoring import Scored

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What is the same for all micro-batches of a stream: `partitions` and `largest_bytes` by topic that it writes."""

    stream: str
    spec: StreamSpec
    form: Form
    partitions: Mapping[str, int]
    largest_bytes: Callable[[str], int]

    def of(self, batch: MicroBatch, scored: Scored) -> list[Outcome]:
        """One a slice, in order."""
        decoded, encoder = batch.decoded, batch.encoder
        if decoded is None or encoder is None:
            raise RuntimeError("scored before it was decoded")
        bodies: list[bytes] = encoder.encode(scored.outputs) if len(scored.versions) else []
        positions = np.asarray(decoded.rows, dtype=np.int64)
        answered = np.ones(len(positions), dtype=np.bool_)
        answered[list(scored.errors)] = False
        dead = {row: Dead(Stage.DECODING, error) for row, error in decoded.errors.items()}
        dead |= {int(positions[j]): Dead(Stage.SCORING, error) for j, error in scored.errors.items()}
        unreadable = _unreadable(batch)
        passed = self._passed(batch, dead, unreadable)
        if unreadable:
            answered &= ~np.isin(positions, list(unreadable))
            dead |= unreadable
        made: list[Outcome] = []
        begin = 0
        for records in batch.slices:
            end = begin + len(records)
            first, last = np.searchsorted(positions, (begin, end)).tolist()
            chosen = first + np.flatnonzero(answered[first:last])
            here = {row - begin: why for row, why in dead.items() if begin <= row < end} if dead else {}
            tombs = [row - begin for row in passed if begin <= row < end]
            out = self._answers(records, chosen, positions[chosen] - begin, bodies, scored, here)
            letters = self._letters(records, here)
            out += self._tombs(records, tombs)
            rows_out = sum(map(len, out))
            whole = (*out, *letters)
            upto = records.offsets[-1] + 1
            made.append(Outcome(records.partition, records.epoch, upto, whole, len(records), rows_out, sum(map(len, letters))))
            begin = end
        return made

    def _answers(
        self, records: Records, chosen: Rows, rows: Rows, bodies: list[bytes], scored: Scored, dead: dict[int, Dead]
    ) -> list[Outgoing]:
        """Of the scored rows `chosen`, which are `rows` of the records. Those too large to be written are added to `dead`."""
        if not len(chosen):
            return []
        out, largest = self._outputs(records, chosen, rows, bodies, scored), self.largest_bytes(self.spec.output.topic)
        alike = self.form.envelope is None and scored.label_keys is None and not any(records.headers)
        if refused := oversized(out, largest, alike=alike):
            dead |= {int(rows[j]): too_large(largest) for j in refused}
            out = self._outputs(records, np.delete(chosen, refused), np.delete(rows, refused), bodies, scored)
        return [out] if len(out) else []

    def _outputs(self, records: Records, chosen: Rows, rows: Rows, bodies: list[bytes], scored: Scored) -> Outgoing:
        answers, told = [bodies[j] for j in chosen.tolist()], scored.label_keys
        keys = [told[j] for j in chosen.tolist()] if told is not None else None
        versions, partitions = scored.versions[chosen], self.partitions[self.spec.output.topic]
        return output_records(records, rows.tolist(), answers, versions, form=self.form, partitions=partitions, label_keys=keys)

    def _letters(self, records: Records, dead: Mapping[int, Dead]) -> list[Outgoing]:
        if not dead:
            return []
        to, marks = self.spec.dead_letters.topic, self.form.marks
        letters = dead_records(records, dead, stream=self.stream, topic=to, partitions=self.partitions[to], marks=marks)
        return [cut(letters, oversized(letters, self.largest_bytes(to)))]

    def _tombs(self, records: Records, rows: Sequence[int]) -> list[Outgoing]:
        if not rows:
            return []
        versions = np.zeros(len(rows), dtype=np.int32)
        partitions = self.partitions[self.spec.output.topic]
        return [output_records(records, rows, [None] * len(rows), versions, form=self.form, partitions=partitions)]

    def _passed(self, batch: MicroBatch, dead: dict[int, Dead], unreadable: Mapping[int, Dead]) -> list[int]:
        """Rows without a value that the document lets through; they are taken out of `dead`."""
        if self.spec.input.on_empty is not OnEmpty.PASS:
            return []
        passed = [row for row in dead if batch.values[row] is None and row not in unreadable]
        for row in passed:
            del dead[row]
        return passed


def _unreadable(batch: MicroBatch) -> dict[int, Dead]:
    found, begin = {}, 0
    for records in batch.slices:
        for row, why in records.unreadable.items():
            error = BadInput(why, where="record", remedy="look at it with the broker's own tools; it can't be read")
            found[begin + row] = Dead(Stage.DECODING, error)
        begin += len(records)
    return found
