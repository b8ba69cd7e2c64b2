"""One consumer of a stream as a Serve replica, so that operators see and scale streams in the dashboard."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from ray import serve
from ray.serve.schema import ReplicaRank

from cluster.errors import Unreachable
from cluster.watch.catalogue import ScoringWay
from consumers.stream.counters import ExplainStatus, WorkerStatus, began_of, open_of
from consumers.stream.explain.section import StreamExplain
from consumers.stream.explain.worker import ExplainNotes, ExplainWorker, explain_spec
from consumers.stream.kafka.clients import chosen_client, open_log
from consumers.stream.labels.reader import LabelReader
from consumers.stream.log.notes import ControlledNotes
from consumers.stream.log.port import Log, Member, Partition
from consumers.stream.loop import Loop
from consumers.stream.payloads.topic_sink import open_topic
from consumers.stream.phases import WorkerPhase
from consumers.stream.sealed.book import SubjectBook, asking
from consumers.stream.serving.autoscale import LAG
from consumers.stream.spec import Client, StreamSpec
from deployments.control.client import connect
from deployments.drift.drift_sample import DriftSample
from deployments.observe.logs.set_up import log_with_serve
from deployments.observe.metering import SilentMeter
from deployments.observe.meters import Meters
from deployments.observe.payloads.log import PayloadLog
from deployments.observe.traces.opening import tracer_of
from deployments.observe.traces.tracer import Tracer
from deployments.observe.use_log import EXPLAINED
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.serving.collector import spare_collections
from deployments.transport.remote import RemoteTransport

STUCK_AFTER_S = 120.0
STOP_S = 30.0
TRACED_AS = "headrace-stream"


class StreamReplica:
    """Runs one worker on a thread. Its name in the consumer group follows the replica's rank.

    So a replica that is replaced takes its predecessor's partitions back without a rebalance, and fences it if it still lives.
    """

    def __init__(self, name: str, document: str, brokers: str) -> None:
        """`document` is a StreamSpec as JSON. Returns at once; the worker starts when Serve tells the rank."""
        self._name = name
        self._spec = StreamSpec.model_validate_json(document)
        log_with_serve(stream=name, model=self._spec.model)
        self._brokers = brokers
        self._lock = threading.Lock()
        self._rank: int | None = None
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._explains: ExplainWorker | None = None
        self._labels: LabelReader | None = None

    def reconfigure(self, user_config: dict[str, Any], rank: ReplicaRank | None) -> None:  # noqa: ARG002  # Serve's signature
        """Called by Serve after `__init__`, and when ranks are dealt anew: then the worker starts over under its new name."""
        with self._lock:
            number = rank.rank if rank is not None else 0
            if number == self._rank:
                return
            self._rank = number
            before = self._thread
            if self._loop is not None:
                self._loop.stop()
            meters = Meters()
            meters.uses.stays(f"worker {number} of stream {self._name}, process {os.getpid()}")
            payloads, drift = PayloadLog(meters, open_topic), DriftSample(meters, ScoringWay.STREAM)
            tracer = tracer_of(None, meters, TRACED_AS)
            scoring = ScorerThread(
                lambda: RoutedScorer(connect(), meters=meters, way=ScoringWay.STREAM, payloads=payloads, drift=drift)
            )
            loop = Loop(
                self._name,
                self._spec,
                scoring,
                lambda: self._open(number),
                meters=meters,
                payloads=payloads,
                tracer=tracer,
                drift=drift,
                subjects=SubjectBook(asking(connect()), actor=f"stream {self._name}"),
            )
            self._loop = loop
            self._thread = threading.Thread(target=self._work, args=(loop, scoring, before, tracer), name="stream", daemon=True)
            self._thread.start()
            if self._spec.explain is not None:
                self._explain(number, self._spec.explain)
            self._read_labels(number)

    def _read_labels(self, rank: int) -> None:
        """One worker is enough for them: labels are few beside records, and there always is one of rank 0."""
        if self._labels is not None:
            self._labels.stop()
            self._labels = None
        if self._spec.labels is not None and rank == 0:
            self._labels = LabelReader(self._name, self._spec, self._spec.labels, self._brokers, connect())
            self._labels.start()

    def check_health(self) -> None:
        """Called by Serve. A worker that failed or stands still makes the replica ill, and Serve replaces it."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        if loop.phase is WorkerPhase.FAILED or not thread.is_alive():
            raise Unreachable(f"the worker has ended: {loop.message}", where=self._name, remedy="Serve starts another")
        idle_s = time.monotonic() - loop.last_turn_s
        if idle_s > STUCK_AFTER_S:
            raise Unreachable(f"the worker has stood still for {idle_s:.0f} s", where=self._name, remedy="Serve starts another")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: how many records wait in this replica's partitions."""
        return {LAG: float(sum(self._loop.lag().values())) if self._loop is not None else 0.0}

    def status(self) -> dict[str, Any]:
        """How the worker is doing: a WorkerStatus as plain data."""
        loop = self._loop
        if loop is None:
            raise Unreachable("the worker has not started", where=self._name, remedy="ask again in a moment")
        owned, counters = {self._label(partition): known for partition, known in sorted(loop.owned().items())}, loop.counters
        return WorkerStatus(
            replica=serve.get_replica_context().replica_tag,
            rank=self._rank or 0,
            pid=os.getpid(),
            client="librdkafka" if chosen_client(self._spec.client) is Client.LIBRDKAFKA else "kafka-python",
            phase=loop.phase,
            message=loop.message,
            explain=self._explaining(),
            label_trouble=self._labels.trouble if self._labels is not None else "",
            partitions=tuple(owned),
            lag={label: known.lag for label, known in owned.items()},
            began={label: began_of(known) for label, known in owned.items() if known.began_at is not None},
            held={label: known.held for label, known in owned.items() if known.held},
            open_transactions={label: open_of(known) for label, known in owned.items() if known.unreadable},
            rows_in=counters.rows_in,
            rows_out=counters.rows_out,
            rows_dead=counters.rows_dead,
            rows_s=counters.rows_s,
            in_flight_rows=loop.in_flight_rows,
            in_flight_bytes=loop.in_flight_bytes,
            commits=counters.commits,
            commit_ms=counters.commit_ms,
            recoveries=counters.recoveries,
            retries=counters.retries,
            breaker_open=loop.breaker.open,
            stuck_recoveries=loop.stuck.recoveries,
            stuck_cause=loop.stuck.cause,
        ).model_dump(mode="json")

    def __del__(self) -> None:
        """Called by Serve when the replica stops: what was taken is committed first."""
        loop, thread = self._loop, self._thread
        if self._explains is not None:
            self._explains.stop()
        if loop is not None and thread is not None:
            loop.stop()
            thread.join(STOP_S)
        if self._explains is not None:
            self._explains.join(STOP_S)
        if self._labels is not None:
            self._labels.stop()

    def _explaining(self) -> ExplainStatus | None:
        return self._explains.status(self._label) if self._explains is not None else None

    def _label(self, partition: Partition) -> int | str:
        return partition.number if self._spec.input.topic else f"{partition.topic}/{partition.number}"

    def _open(self, rank: int) -> Log:
        group = self._spec.group_of(self._name)
        member = Member(group, f"{group}-{rank}", f"{group}-{rank}")
        return open_log(self._spec, self._brokers, member, ControlledNotes(connect(), self._name), making_topics=True)

    def _explain(self, rank: int, section: StreamExplain) -> None:
        """Begins to explain beside the worker of this rank, in place of what explains now."""
        before = self._explains
        if before is not None:
            before.stop()
        spec = explain_spec(self._spec, section, self._name)
        group = spec.group_of(self._name)
        member = Member(group, f"{group}-{rank}", f"{group}-{rank}")
        control = connect()
        notes = ExplainNotes(ControlledNotes(control, self._name))
        meters = Meters()
        meters.uses.stays(f"explanations of worker {rank} of stream {self._name}, process {os.getpid()}")

        def explained(version: int, rows: int) -> None:
            meters.uses.add(f"stream {self._name}", spec.model, str(version), ScoringWay.STREAM, EXPLAINED, rows)

        def scorer() -> RoutedScorer:
            # By replicas alone: the stream's own scorer may hold engines in this process already.
            remote = RemoteTransport()
            return RoutedScorer(control, remote, remote, remote, meters=meters, way=ScoringWay.STREAM, meter=SilentMeter())

        self._explains = ExplainWorker(
            self._name,
            spec,
            section,
            ScorerThread(scorer),
            lambda: open_log(spec, self._brokers, member, notes, making_topics=True),
            explained,
        )
        self._explains.start(before)

    def _work(self, loop: Loop, scoring: ScorerThread, before: threading.Thread | None, tracer: Tracer | None) -> None:
        if before is not None:
            before.join()
        try:
            with scoring:
                spare_collections()
                loop.run()
        finally:
            if tracer is not None:
                tracer.close()
