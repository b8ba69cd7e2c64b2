"""What librdkafka numbers below zero, because it found it out by itself: confluent-kafka names these with an underscore.

Every such name that we use stands here, and is looked up when this is loaded.
"""

from __future__ import annotations

import confluent_kafka
from confluent_kafka import KafkaError

from cluster.errors import BadInput


def _code(name: str) -> int:
    code = getattr(KafkaError, name, None)
    if code is None:
        raise BadInput(
            f"confluent-kafka {confluent_kafka.__version__} has no KafkaError.{name}",
            where="confluent-kafka",
            remedy="install another version of it, 2.6 or later; or set spec.client: kafka-python",
        )
    return int(code)


STATE = _code("_STATE")
FATAL = _code("_FATAL")
FENCED = _code("_FENCED")
PARTITION_EOF = _code("_PARTITION_EOF")
NO_OFFSET = _code("_AUTO_OFFSET_RESET")
BAD_MESSAGE = _code("_BAD_MSG")
BAD_COMPRESSION = _code("_BAD_COMPRESSION")
