"""What of a unit's rows goes to the model's payload log: a sample by hash, once the unit is done."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.control_plane import ControlPlane
from cluster.watch.catalogue import ScoringWay
from cluster.watch.payloads import Payloads, PayloadTopic
from consumers.batch.write.records import Pinned
from deployments.control.table_watch import ReportPush
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome
from deployments.observe.payloads.log import PayloadLog, kept
from deployments.observe.payloads.sampling import sampled_places, weight_of
from deployments.observe.payloads.sink import PayloadSink

EVENT_ROWS = 256  # so that an event fits a topic's record

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows of a unit that are kept: row j of the tensors is the unit's numbers[j]-th."""

    numbers: Rows
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one row, in each tensor: rows of the same can lie in one."""
        return tuple(tensor.shape[1:] for tensors in (self.inputs, self.outputs) for tensor in tensors.values())


class UnitPayloads:
    """Of one worker. Rows that can't be scored are left out: the run's quarantine has all of them, with the reasons.

    A sink that does not take them costs a unit some seconds and its payloads, and is counted.
    """

    def __init__(self, settings: Payloads, batch: str, pinned: Pinned, control: ControlPlane | None = None) -> None:
        """`control` is told how many were kept; without it nobody is."""
        self._settings, self._batch, self._pinned = settings, batch, pinned
        self._meters = Meters()
        self._push = ReportPush(control, self._meters) if control is not None else None

    def of(
        self, unit: str, numbers: Rows, rows: Rows, tensors: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> KeptRows | None:
        """Those to keep of the rows that were answered: row j of `outputs` is row rows[j] of `tensors`, and the unit's
        numbers[j]-th. The same of a unit that is done again."""
        sampled = sampled_places(self._place(unit), numbers, self._settings.sample, self._settings.seed)
        if not len(sampled):
            return None
        return KeptRows(numbers[sampled], kept(tensors, self._settings, rows[sampled]), kept(outputs, self._settings, sampled))

    def done(self, unit: str, found: Sequence[KeptRows]) -> None:
        """The unit's receipt is written. Blocks until its payloads are too, for some seconds at most."""
        if not found:
            return
        log = PayloadLog(self._meters, _open_topic)
        log.put(self._settings, self._pinned.model, self._events(unit, found))
        log.close()
        if self._push is not None:
            asyncio.run(self._push.flush())

    def _place(self, unit: str) -> str:
        return f"{self._batch}/{unit}"

    def _events(self, unit: str, found: Sequence[KeptRows]) -> Iterator[PayloadEvent]:
        pinned = self._pinned
        for _, alike in itertools.groupby(found, KeptRows.shapes):
            whole = _joined(list(alike))
            for start in range(0, len(whole.numbers), EVENT_ROWS):
                part = slice(start, start + EVENT_ROWS)
                yield PayloadEvent(
                    f"{self._place(unit)}/{whole.numbers[start]}",
                    time.time(),
                    ScoringWay.BATCH,
                    pinned.model,
                    pinned.version,
                    PayloadOutcome.OK,
                    weight_of(self._settings.sample),
                    {name: tensor[part] for name, tensor in whole.inputs.items()},
                    {name: tensor[part] for name, tensor in whole.outputs.items()},
                    np.full(len(whole.numbers[part]), pinned.version, np.int32),
                )


def _open_topic(topic: PayloadTopic) -> PayloadSink:
    # Who keeps files alone starts without a Kafka client.
    from consumers.stream.payloads.topic_sink import open_topic

    return open_topic(topic)


def _joined(pieces: Sequence[KeptRows]) -> KeptRows:
    if len(pieces) == 1:
        return pieces[0]
    inputs, outputs = (
        {name: np.concatenate([one[name] for one in tensors]) for name in tensors[0]}
        for tensors in ([piece.inputs for piece in pieces], [piece.outputs for piece in pieces])
    )
    return KeptRows(np.concatenate([piece.numbers for piece in pieces]), inputs, outputs)


def unit_payloads(batch: str, pinned: Pinned, control: Callable[[], ControlPlane | None]) -> UnitPayloads | None:
    """None where the model keeps none."""
    settings = pinned.payloads
    return UnitPayloads(settings, batch, pinned, control()) if settings is not None and settings.sample else None
