"""The process that acts on streams: an actor on the head node, which ends when nobody asks any more."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray

from cluster.errors import HeadraceError
from cluster.watch.catalogue import ScoringWay
from consumers.stream.kafka.kafka_python.client import brokers_of_environment
from consumers.stream.operate.stream_operator import StreamOperator
from deployments.control.client import connect
from deployments.observe.logs.set_up import log_to_stderr
from deployments.observe.metering import SilentMeter
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.transport.remote import RemoteTransport

IDLE_S = 600.0
LOOK_S = 10.0


class OperatorProcess:
    """Answers errors of ours as values: raised, they would come back as errors of Ray."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        log_to_stderr()
        control = connect()

        def scorer() -> RoutedScorer:
            remote = RemoteTransport()  # by replicas: no engine is loaded here
            return RoutedScorer(control, remote, remote, remote, way=ScoringWay.STREAM, meter=SilentMeter())

        self._operator = StreamOperator(control, brokers_of_environment(), lambda: ScorerThread(scorer))
        self._asked_s, self._idle_s = time.monotonic(), idle_s
        threading.Thread(target=self._leave_when_idle, name="idle", daemon=True).start()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What that method of StreamOperator answers, or the HeadraceError that it raises."""
        if method != "moves":  # which pages ask all the time
            self._asked_s = time.monotonic()
        try:
            return getattr(self._operator, method)(*arguments)
        except HeadraceError as error:
            return error

    def _leave_when_idle(self) -> None:
        while self._operator.busy or time.monotonic() - self._asked_s < self._idle_s:
            time.sleep(min(LOOK_S, self._idle_s))  # that nobody asks is no event
        ray.kill(ray.get_runtime_context().current_actor)
