"""What of a unit's rows goes to the model's payload log: a sample by hash, once the unit is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cluster.control_plane import ControlPlane
from cluster.watch.catalogue import ScoringWay
from cluster.watch.payloads import Payloads
from consumers.batch.write.records import Pinned
from deployments.control.table_watch import ReportPush
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome
from deployments.observe.payloads.log import PayloadLog, kept
from deployments.observe.payloads.sampling import sampled_places, weight_of

EVENT_ROWS = 256  # so that an event fits a topic's record

Rows = npt.NDArray[np.int64]


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
    ) -> Iterator[PayloadEvent]:
        """Those to keep of the rows that were answered: row j of `outputs` is row rows[j] of `tensors`, and the unit's
        numbers[j]-th. The same of a unit that is done again."""
        place = f"{self._batch}/{unit}"
        sampled = sampled_places(place, numbers, self._settings.sample, self._settings.seed)
        for start in range(0, len(sampled), EVENT_ROWS):
            part = sampled[start : start + EVENT_ROWS]
            yield PayloadEvent(
                f"{place}/{numbers[part[0]]}",
                time.time(),
                ScoringWay.BATCH,
                self._pinned.model,
                self._pinned.version,
                PayloadOutcome.OK,
                weight_of(self._settings.sample),
                kept(tensors, self._settings, rows[part]),
                kept(outputs, self._settings, part),
                np.full(len(part), self._pinned.version, np.int32),
            )

    def done(self, events: Sequence[PayloadEvent]) -> None:
        """The unit's receipt is written. Blocks until its payloads are too, for some seconds at most."""
        if not events:
            return
        # A worker whose model keeps none starts without a Kafka client.
        from consumers.stream.payloads.topic_sink import open_topic

        log = PayloadLog(self._meters, open_topic)
        log.put(self._settings, events)
        log.close()
        if self._push is not None:
            asyncio.run(self._push.flush())


def unit_payloads(batch: str, pinned: Pinned, control: Callable[[], ControlPlane | None]) -> UnitPayloads | None:
    """None where the model keeps none."""
    settings = pinned.payloads
    return UnitPayloads(settings, batch, pinned, control()) if settings is not None and settings.sample else None
