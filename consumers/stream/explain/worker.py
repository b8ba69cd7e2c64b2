"""The worker that explains beside a stream's own, on threads of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from consumers.stream.counters import ExplainStatus
from consumers.stream.explain.intake import ExplainIntake, TellExplained, untold
from consumers.stream.explain.section import StreamExplain
from consumers.stream.log.port import Log, Partition
from consumers.stream.log.starts import Notes
from consumers.stream.loop import Loop
from consumers.stream.phases import WorkerPhase
from consumers.stream.spec import Begin, StreamInput, StreamOutput, StreamSpec
from deployments.scoring.scorer_thread import ScorerThread

AGAIN_AFTER_S = 5.0
# Of records that are taken at a time: those of the sample among them are explained before any is committed.
BATCH_ROWS = 200

_log = logging.getLogger(__name__)


def explain_spec(spec: StreamSpec, section: StreamExplain, name: str) -> StreamSpec:
    """The second stream of a document: another group, which begins for itself, and JSON to the topic of explanations. Pure."""
    begin = Begin.EARLIEST if section.from_beginning else Begin.LATEST
    changed = {
        "input": StreamInput.model_validate(spec.input.model_dump() | {"begin": begin}),
        "output": StreamOutput(topic=section.topic, partitions=section.partitions),
        "group": f"{spec.group_of(name)}-explain",
        "max_batch_rows": min(spec.max_batch_rows, BATCH_ROWS),
        "explain": None,
        "labels": None,
    }
    return spec.model_copy(update=changed)


class ExplainNotes:
    """Implements Notes among those of the stream itself."""

    def __init__(self, notes: Notes, prefix: str = "explain/") -> None:
        self._notes, self._prefix = notes, prefix

    def load(self) -> Mapping[str, str]:
        """See Notes."""
        return {
            name.removeprefix(self._prefix): value for name, value in self._notes.load().items() if name.startswith(self._prefix)
        }

    def add(self, notes: Mapping[str, str]) -> None:
        """See Notes."""
        self._notes.add({self._prefix + name: value for name, value in notes.items()})


class ExplainWorker:
    """Runs until `stop`. Whatever befalls it, the stream's own worker goes on."""

    def __init__(
        self,
        name: str,
        spec: StreamSpec,
        section: StreamExplain,
        scoring: ScorerThread,
        make_log: Callable[[], Log],
        explained: TellExplained = untold,
    ) -> None:
        """`spec` is what `explain_spec` made; `scoring` is entered and left by the worker's thread, which tells `explained`."""
        self._name, self._spec, self._section, self._explained = name, spec, section, explained
        self._scoring, self._make_log = scoring, make_log
        self._stop = threading.Event()
        self._loop: Loop | None = None
        self._before: ExplainWorker | None = None
        self._thread = threading.Thread(target=self._work, name="stream-explain", daemon=True)

    def start(self, before: ExplainWorker | None) -> None:
        """Returns at once. It begins when the one `before` it, if any, has ended."""
        self._before = before
        self._thread.start()

    def stop(self) -> None:
        """Asks it to commit what it has explained, and to end."""
        self._stop.set()
        if self._loop is not None:
            self._loop.stop()

    def join(self, timeout_s: float | None = None) -> None:
        """Waits until it has ended."""
        self._thread.join(timeout_s)

    @property
    def loop(self) -> Loop | None:
        """The loop that runs now."""
        return self._loop

    def status(self, label: Callable[[Partition], int | str]) -> ExplainStatus:
        """How far it has come; `label` is what a partition is called."""
        loop = self._loop
        if loop is None:
            return ExplainStatus(phase=WorkerPhase.STARTING)
        done = loop.counters
        return ExplainStatus(
            phase=loop.phase,
            message=loop.message,
            lag={label(partition): waiting for partition, waiting in sorted(loop.lag().items())},
            rows_in=done.rows_in,
            rows_out=done.rows_out,
            rows_s=done.rows_s,
        )

    def _work(self) -> None:
        if self._before is not None:
            self._before.join()
            self._before = None
        with self._scoring:
            while not self._stop.is_set():
                intake = ExplainIntake(self._spec, self._section, self._scoring, self._stop, self._explained)
                self._loop = Loop(self._name, self._spec, self._scoring, self._make_log, intake=intake)
                if self._stop.is_set():
                    return
                try:
                    self._loop.run()
                except Exception:  # noqa: BLE001 - logged; the stream itself goes on, and this is tried again
                    _log.exception("stream %s: its explanations have stopped", self._name)
                self._stop.wait(AGAIN_AFTER_S)
