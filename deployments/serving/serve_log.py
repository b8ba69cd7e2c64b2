"""What our modules log in a replica, into the replica's own log, which the dashboard shows.

Serve sends what a replica writes to stderr to its log as of level INFO, and with its access log off drops that; the rest it keeps
in memory until an error comes.
"""

from __future__ import annotations

import logging

SERVE_LOGGER = "ray.serve"
PACKAGES = ("cluster", "deployments", "consumers", "headrace")


class _ToServe(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        serve = logging.getLogger(SERVE_LOGGER)  # Serve may give it other handlers at any time
        serve.handle(record)
        if record.levelno >= logging.WARNING:
            for handler in serve.handlers:
                handler.flush()


def log_with_serve() -> None:
    """From now on, in this process. Called as a replica starts; safe to repeat."""
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [_ToServe()]
        logger.propagate = False
