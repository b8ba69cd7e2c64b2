"""What kafka-python raises while a stream's member reads and writes, as errors of the log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from kafka.errors import FencedInstanceIdError, KafkaError  # type: ignore[import-untyped]

from cluster.errors import Conflict
from consumers.stream.kafka.broker_errors import asker_of, unreachable
from consumers.stream.kafka.commit_thread import record_refused
from consumers.stream.kafka.kafka_python.sending import REFUSALS, TOO_LARGE
from consumers.stream.log.port import Member
from consumers.stream.spec import StreamSpec


class KafkaErrors:
    """Of one member. `on_refusal` is called where the broker refused a record."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member, on_refusal: Callable[[], None]) -> None:
        self._brokers, self._member, self._on_refusal = brokers, member, on_refusal
        self._asker = asker_of(spec, member)

    @contextlib.contextmanager
    def __call__(self, *, committing: bool = False) -> Iterator[None]:
        """Around calls of the client. Raises Conflict, RecordRefused and Unreachable."""
        try:
            yield
        except FencedInstanceIdError as error:
            if committing:  # perhaps it was this member itself that joined anew meanwhile: `recover` asks
                raise unreachable(self._brokers, error, self._asker) from error
            raise Conflict("another member of this name took over", where=self._member.instance, remedy="end this one") from error
        except KafkaError as error:
            if isinstance(error, REFUSALS):
                self._on_refusal()
                raise record_refused(str(error), self._brokers, too_large=isinstance(error, TOO_LARGE)) from error
            raise unreachable(self._brokers, error, self._asker) from error
