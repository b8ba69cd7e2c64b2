"""A stream's one connection for questions to its broker, beside those that its client reads and writes with.

Through kafka-python whatever client the stream has: one place less that could differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from cluster.errors import HeadraceError
from consumers.stream.kafka.broker_errors import Asker, unreachable
from consumers.stream.kafka.kafka_python.client import client_config
from consumers.stream.security import Security

AsError = Callable[[str, Exception, Asker], HeadraceError]

CONNECT_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 20.0


class Admin:
    """Connects when it is first asked, and anew after a failure. Used by one thread at a time; any may close it."""

    def __init__(self, brokers: str, security: Security, asker: Asker) -> None:
        self._brokers, self._security, self._asker = brokers, security, asker
        self._client: KafkaAdminClient | None = None

    @property
    def client(self) -> KafkaAdminClient:
        """The client, connected. Blocks; raises KafkaError, and BadInput where a secret can't be read."""
        if self._client is None:
            self._client = KafkaAdminClient(
                **client_config(self._brokers, self._security),
                bootstrap_timeout_ms=int(CONNECT_TIMEOUT_S * 1000),
                request_timeout_ms=int(CALL_TIMEOUT_S * 1000),
            )
        return self._client

    @contextlib.contextmanager
    def asking(self, as_error: AsError = unreachable) -> Iterator[KafkaAdminClient]:
        """The client. What it raises becomes an error of ours, Unreachable unless `as_error` says otherwise.

        The next question then connects anew.
        """
        try:
            yield self.client
        except KafkaError as error:
            self.close()
            raise as_error(self._brokers, error, self._asker) from error

    def twin(self) -> Admin:
        """Another connection to the same broker, for another thread."""
        return Admin(self._brokers, self._security, self._asker)

    def close(self) -> None:
        """Ends the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(KafkaError):  # it may be gone already
                client.close()
