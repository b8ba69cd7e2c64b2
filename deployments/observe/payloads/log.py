"""The payload log of one process: decides, copies what is kept, and hands it to the lanes of the model's places."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput, HeadraceError, NoCapacity
from cluster.watch.catalogue import PAYLOADS, ScoringWay
from cluster.watch.payloads import PayloadFiles, Payloads, PayloadTopic
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome
from deployments.observe.payloads.lane import DROPPED, SinkLane
from deployments.observe.payloads.sampling import is_sampled, weight_of
from deployments.observe.payloads.sink import OpenTopic, PayloadSink

CLOSE_S = 5.0
Rows = npt.NDArray[np.intp]


class PayloadLog:
    """Safe to call from any thread; no call blocks, and none raises. Only call it for models that have `payloads`."""

    def __init__(self, meters: Meters, open_topic: OpenTopic | None = None) -> None:
        """`open_topic` opens topics; without it there are none in this process."""
        self._meters = meters
        self._open_topic = open_topic
        self._lock = threading.Lock()
        self._lanes: dict[str, tuple[Payloads, tuple[SinkLane, ...]]] = {}

    def answered(
        self,
        payloads: Payloads,
        model: str,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        versions: npt.NDArray[np.int32],
        *,
        request_id: str,
        label_keys: Sequence[str] = (),
    ) -> None:
        """A request was answered online, by those versions, one a row."""
        prediction = self._drawn(payloads.sample, payloads.seed)
        if prediction is not None and self._fits(payloads, model, inputs):
            self._put(
                payloads,
                PayloadEvent(
                    prediction,
                    time.time(),
                    ScoringWay.ONLINE,
                    model,
                    int(versions[0]),
                    PayloadOutcome.OK,
                    weight_of(payloads.sample),
                    kept(inputs, payloads),
                    kept(outputs, payloads),
                    versions.copy(),
                    request_id=request_id,
                    label_keys=tuple(label_keys),
                ),
            )

    def failed(
        self, payloads: Payloads, model: str, inputs: Mapping[str, Array], version: int, error: HeadraceError, *, request_id: str
    ) -> None:
        """A request got no answer. Not kept where there was no room for it: that says nothing of it, and would make it worse."""
        if isinstance(error, NoCapacity):
            return
        prediction = self._drawn(payloads.errors, payloads.seed)
        if prediction is not None and self._fits(payloads, model, inputs):
            rows = len(next(iter(inputs.values())))
            self._put(
                payloads,
                PayloadEvent(
                    prediction,
                    time.time(),
                    ScoringWay.ONLINE,
                    model,
                    version,
                    PayloadOutcome.ERROR,
                    weight_of(payloads.errors),
                    kept(inputs, payloads),
                    None,
                    np.full(rows, version, np.int32),
                    error=error.kind,
                    request_id=request_id,
                ),
            )

    def disagreed(
        self,
        payloads: Payloads,
        way: ScoringWay,
        model: str,
        version: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        rows: Rows,
    ) -> None:
        """On these rows a shadow of that version disagreed with stable; `outputs` are the shadow's."""
        if len(rows):
            share, outcome = payloads.disagreements, PayloadOutcome.DISAGREED
            self._found(payloads, share, outcome, way, model, version, inputs, outputs, rows)

    def unlike(
        self,
        payloads: Payloads,
        way: ScoringWay,
        model: str,
        version: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        stand_for: float,
    ) -> None:
        """These rows are outliers, among some that were drawn: each stands for so many."""
        rows = np.arange(len(next(iter(inputs.values()))))
        share, outcome = payloads.outliers, PayloadOutcome.OUTLIER
        self._found(payloads, share, outcome, way, model, version, inputs, outputs, rows, stand_for)

    def _found(
        self,
        payloads: Payloads,
        share: float,
        outcome: PayloadOutcome,
        way: ScoringWay,
        model: str,
        version: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        rows: Rows,
        stand_for: float = 1.0,
    ) -> None:
        """Rows that something was found of, whichever requests they came with."""
        prediction = self._drawn(share, payloads.seed)
        if prediction is not None and self._fits(payloads, model, inputs):
            self._put(
                payloads,
                PayloadEvent(
                    prediction,
                    time.time(),
                    way,
                    model,
                    version,
                    outcome,
                    weight_of(share) * stand_for,
                    kept(inputs, payloads, rows),
                    kept(outputs, payloads, rows),
                    np.full(len(rows), version, np.int32),
                ),
            )

    def put(self, payloads: Payloads, model: str, events: Iterable[PayloadEvent]) -> None:
        """Events of a model that were sampled already: those of a transaction, once it has committed."""
        lanes = self._lanes_of(model, payloads)
        for event in events:
            _offer(lanes, event)

    def keep(self, wanted: Mapping[str, Payloads]) -> None:
        """Only these models have payloads from now on, and as they are here; what waits for others is still written."""
        with self._lock:
            gone = [model for model, (known, _) in self._lanes.items() if wanted.get(model) != known]
            ended = [lane for model in gone for lane in self._lanes.pop(model)[1]]
        for lane in ended:
            lane.end()

    def close(self) -> None:
        """Writes what waits, for a few seconds at most, whatever the sinks do. Blocks."""
        with self._lock:
            lanes = [lane for _, lanes in self._lanes.values() for lane in lanes]
            self._lanes.clear()
        for lane in lanes:
            lane.end()
        until_s = time.monotonic() + CLOSE_S
        for lane in lanes:
            lane.join(max(until_s - time.monotonic(), 0.0))

    def _drawn(self, share: float, seed: int) -> str | None:
        """The id of a prediction that is kept. Ours, not the caller's: many send the same one with every request."""
        if share <= 0:
            return None
        prediction = f"{random.getrandbits(64):016x}"
        return prediction if is_sampled(prediction, share, seed) else None

    def _fits(self, payloads: Payloads, model: str, inputs: Mapping[str, Array]) -> bool:
        """Whether it is worth copying."""
        if sum([tensor.nbytes for tensor in inputs.values()]) <= payloads.buffer_bytes:
            return True
        self._meters.add(PAYLOADS, 1, model, DROPPED)
        return False

    def _put(self, payloads: Payloads, event: PayloadEvent) -> None:
        _offer(self._lanes_of(event.model, payloads), event)

    def _lanes_of(self, model: str, payloads: Payloads) -> tuple[SinkLane, ...]:
        with self._lock:
            known = self._lanes.get(model)
            if known is not None and known[0] == payloads:
                return known[1]
            lanes = tuple(
                SinkLane(model, open_sink, payloads.buffer_bytes, self._meters) for open_sink in self._openers(payloads)
            )
            self._lanes[model] = payloads, lanes
        for lane in known[1] if known is not None else ():
            lane.end()
        return lanes

    def _openers(self, payloads: Payloads) -> list[Callable[[], PayloadSink]]:
        openers: list[Callable[[], PayloadSink]] = []
        if payloads.parquet is not None:
            openers.append(partial(_files, payloads.parquet))
        if payloads.kafka is not None:
            openers.append(partial(self._open_topic or _no_topics, payloads.kafka))
        return openers


def _offer(lanes: Iterable[SinkLane], event: PayloadEvent) -> None:
    size_bytes = event.size_bytes
    for lane in lanes:
        lane.offer(event, size_bytes)


def kept(tensors: Mapping[str, Array], payloads: Payloads, rows: Rows | slice = slice(None)) -> dict[str, Array]:
    """Copies of these rows, without what is redacted."""
    taken = {name: tensor[rows] for name, tensor in tensors.items() if name not in payloads.redact}
    # A slice is a view; rows that were chosen one by one are a copy already.
    return {name: tensor.copy() for name, tensor in taken.items()} if isinstance(rows, slice) else taken


def _no_topics(topic: PayloadTopic) -> PayloadSink:
    raise BadInput("this process writes no topics", where=f"topic {topic.topic}", remedy="use payloads.parquet")


def _files(settings: PayloadFiles) -> PayloadSink:
    # pyarrow's 60 MB are had only where payloads are kept in files.
    from deployments.observe.payloads.parquet_files import ParquetPayloads

    return ParquetPayloads(settings)
