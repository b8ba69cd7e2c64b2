"""An admin client of a real broker, closed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka.admin import KafkaAdminClient


@contextmanager
def administered(brokers: str) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    try:
        yield admin
    finally:
        admin.close()
