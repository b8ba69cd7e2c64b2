"""No password in kafka-python's debug log."""

from __future__ import annotations

import logging
from functools import cache

from consumers.stream.kafka.kafka_python.names import LOGIN_REQUESTS, Use, found, has

REQUEST_LOGGERS = ("kafka.protocol.parser", "kafka.net.connection")


class _WithoutLogins(logging.Filter):
    """Leaves out requests that log in, and bytes as they go over the wire: PLAIN sends the password as it is."""

    def __init__(self) -> None:
        super().__init__()
        # Where it is not known what a login looks like, nothing is shown.
        logins = tuple(map(found, LOGIN_REQUESTS)) if has(Use.LOGINS) else (object,)
        self._hidden = (*logins, bytes, bytearray)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be seen."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(isinstance(argument, self._hidden) for argument in arguments)


@cache
def keep_logins_unlogged() -> None:
    """No password in the client's debug log. May be called again."""
    for name in REQUEST_LOGGERS:
        logging.getLogger(name).addFilter(_WithoutLogins())
