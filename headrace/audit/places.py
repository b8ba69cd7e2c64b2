"""Where checkpoints are kept that nobody here can take back: a folder, an object store, a Kafka topic."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from cluster.errors import BadArtifact, BadInput
from headrace.audit.verify import KEEP
from headrace.local.home import without_password

KAFKA = "kafka"
SPACE = "free some space: the next checkpoint is kept again"
Keep = Callable[[str, int], str]
"""Keeps the note of the first so many records, and says where it is. Blocks; raises Unreachable, NoCapacity, BadInput, and
BadArtifact where another one of as many records is there."""


def place_of(uri: str) -> Keep:
    """What keeps checkpoints at a path, at a URI of a filesystem that pyarrow knows (`s3://bucket/folder`), or on a topic
    (`kafka://broker:9092/topic`, brokers by commas). Raises BadInput; asks nobody yet."""
    if urlsplit(uri).scheme != KAFKA:
        return lambda note, size: _in_folder(uri, note, size)
    brokers, topic = urlsplit(uri).netloc, urlsplit(uri).path.strip("/")
    if not brokers or not topic or "/" in topic:
        raise BadInput("it names no brokers and topic", where=uri, remedy="write it like kafka://broker:9092/audit-checkpoints")
    return lambda note, size: _on_topic(brokers, topic, note, size)


def _in_folder(uri: str, note: str, size: int) -> str:
    # pyarrow's 30 MB are had only where they are needed.
    from deployments.artifacts.places import explaining, locate

    folder, shown = locate(uri), without_password(uri)
    file = folder / f"checkpoint-{size:012d}"
    with explaining(shown, SPACE):
        if file.exists():
            if _signed(file.read().decode(errors="replace")) != _signed(note):
                raise BadArtifact(
                    f"another checkpoint of {size} records is there: the audit was rewritten", where=shown, remedy=KEEP
                )
        else:  # what is there is never written again: the place may be locked
            if not folder.is_object_store:
                folder.make()
            file.write(note.encode())
    return f"{shown.rstrip('/')}/{file.name}"


def _on_topic(brokers: str, topic: str, note: str, size: int) -> str:
    # As above, for Kafka's client.
    from consumers.stream.kafka.kafka_python.one_record import send_record

    send_record(brokers, topic, str(size).encode(), note.encode())
    return f"topic {topic}"


def _signed(note: str) -> list[str]:
    """The number of records and the root, whoever has signed them."""
    return note.splitlines()[1:3]
