"""The `spec` section of a Stream document."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from cluster.fleet.serving import Resources
from cluster.section import Section
from consumers.stream.explain.section import StreamExplain
from consumers.stream.sealed.section import DecryptedInput, EncryptedOutput
from consumers.stream.security import Registry, Security

TOPIC_PATTERN = r"^[A-Za-z0-9._-]{1,249}$"
OPTIONAL_TOPIC_PATTERN = r"^[A-Za-z0-9._-]{0,249}$"


class Format(StrEnum):
    """How a record's value holds tensors. The last two are framed as a schema registry's clients do."""

    JSON = "json"
    RAW = "raw"
    ARROW = "arrow"
    AVRO = "avro"
    JSON_SCHEMA = "json_schema"


FRAMED = (Format.AVRO, Format.JSON_SCHEMA)


class InputEnvelope(StrEnum):
    """What is around an input value. CloudEvents are taken in both modes, binary and structured."""

    NONE = "none"
    CLOUDEVENTS = "cloudevents"


class OutputEnvelope(StrEnum):
    """What is put around an answer."""

    NONE = "none"
    BINARY = "cloudevents_binary"
    STRUCTURED = "cloudevents_structured"


class OnEmpty(StrEnum):
    """What becomes of a record without a value (a tombstone)."""

    DEAD_LETTER = "dead_letter"
    PASS = "pass"  # noqa: S105  # not a password


class Begin(StrEnum):
    """Where a stream begins that never ran: its first start is committed, so it holds from then on."""

    EARLIEST = "earliest"
    LATEST = "latest"


class Guarantee(StrEnum):
    """What is promised of each input record."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


class Client(StrEnum):
    """The Kafka client. `auto`: librdkafka where the extra of that name is installed, else kafka-python."""

    AUTO = "auto"
    KAFKA_PYTHON = "kafka-python"
    LIBRDKAFKA = "librdkafka"


class Topic(Section):
    """A topic; made with `partitions` where it is missing. One that is there is taken as it is, and may grow."""

    topic: str = Field(pattern=TOPIC_PATTERN)
    partitions: int = Field(default=4, ge=1)


class StreamInput(Section):
    """What to read: one of `topic`, `topics` and `pattern` (a regular expression that a topic's whole name matches).

    Topics that are named and missing are made with `partitions`; those that are there are read whole, and partitions that are
    added later from their first record. No more consumers run than `partitions` are declared. `fields` maps an input of the model
    to its field (a column, with Arrow), where the names differ; `/a/b` is a path into a nested document. Dates and times of Avro
    and Arrow are whole numbers in their schema's unit (days or milliseconds since 1970), decimals are numbers.
    """

    topic: str = Field(default="", pattern=OPTIONAL_TOPIC_PATTERN)
    topics: tuple[str, ...] = ()
    pattern: str = ""
    partitions: int = Field(default=4, ge=1)
    format: Format = Format.JSON
    envelope: InputEnvelope = InputEnvelope.NONE
    fields: dict[str, str] = Field(default_factory=dict)
    on_empty: OnEmpty = OnEmpty.DEAD_LETTER
    begin: Begin = Begin.EARLIEST
    decrypt: DecryptedInput | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if sum(map(bool, (self.topic, self.topics, self.pattern))) != 1:
            raise ValueError("give one of topic, topics and pattern")
        for name in self.topics:
            if not re.fullmatch(TOPIC_PATTERN, name):
                raise ValueError(f"{name!r} can't be a topic's name")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from error
        if self.decrypt is not None and not (self.topic and self.format is Format.JSON and self.envelope is InputEnvelope.NONE):
            raise ValueError("decrypt takes JSON without an envelope, from one `topic`: a field is bound to it")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The topics that are named; none where there is a pattern."""
        return (self.topic,) if self.topic else self.topics

    @property
    def most_consumers(self) -> int | None:
        """More would have nothing to read. None where a pattern decides."""
        return len(self.names) * self.partitions or None

    def reads(self, topic: str) -> bool:
        """Whether records of this topic are input."""
        return topic in self.names or bool(self.pattern and re.fullmatch(self.pattern, topic))


class StreamOutput(Topic):
    """What to write. Input partition p goes to output partition p modulo the partitions that the topic had when the stream first
    wrote to it, so order is kept."""

    format: Format = Format.JSON
    envelope: OutputEnvelope = OutputEnvelope.NONE
    outliers: bool = Field(default=False, description="a header on each answer tells how unlike the profile its record is")
    encrypt: EncryptedOutput | None = None

    @model_validator(mode="after")
    def _can_be_encrypted(self) -> Self:
        if self.encrypt is not None and self.format is not Format.JSON:
            raise ValueError("encrypt writes texts, so the format must be json")
        return self


class LabelTopic(Topic):
    """Late labels of the model's answers: JSON objects with a label key in the field `key` and a label in `value`.

    The key may also be in the header `headrace.label_key`, as the answer had it. The model needs a `labels` section. A consumer
    group of its own, the stream's with `-labels`, reads it from its beginning.
    """

    key: str = Field(default="key", min_length=1)
    value: str = Field(default="label", min_length=1)


class ConsumerScaling(Section):
    """How many consumers run: the lag divided by `lag_per_replica`, never more than the input's partitions."""

    min: int = Field(default=1, ge=0)
    max: int = Field(default=4, ge=1)
    lag_per_replica: int = Field(default=10_000, ge=1, description="records")
    calm_s: float = Field(default=60.0, ge=0, description="fewer must be enough for this long before any is stopped")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class StreamSpec(Section):
    """A running binding: input topic -> model -> output topic, with dead letters.

    `brokers` is `host:port[,host:port]`; left out, the project's own broker. A micro-batch closes at `max_batch_rows`, or
    `linger_ms` after its first record. `group` is the consumer group, `headrace-NAME` where left out.
    """

    model: str
    brokers: str | None = None
    input: StreamInput
    output: StreamOutput
    dead_letters: Topic
    guarantee: Guarantee = Guarantee.EXACTLY_ONCE
    client: Client = Client.AUTO
    group: str | None = Field(default=None, pattern=TOPIC_PATTERN)
    max_batch_rows: int = Field(default=2000, ge=1, le=100_000)
    linger_ms: float = Field(default=5.0, ge=0, le=10_000)
    max_in_flight_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    max_record_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    session_timeout_s: float = Field(default=10.0, ge=6, le=300)
    transaction_timeout_s: float = Field(default=30.0, ge=5, le=900)
    breaker_rows: int = Field(default=500, ge=1, description="rows in a row that the version may fail before the stream holds")
    resources: Resources = Resources()
    scaling: ConsumerScaling = ConsumerScaling()
    security: Security = Security()
    registry: Registry | None = None
    explain: StreamExplain | None = None
    labels: LabelTopic | None = None

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        explained = (self.explain.topic,) if self.explain is not None else ()
        names = [*self.input.names, self.output.topic, self.dead_letters.topic, *explained]
        if len(set(names)) != len(names):
            which = "input, output, dead_letters and explain" if explained else "input, output and dead_letters"
            raise ValueError(f"{which} must be {'four' if explained else 'three'} topics; got {names}")
        for written in (self.output.topic, self.dead_letters.topic, *explained):
            if self.input.reads(written):
                raise ValueError(f"the input's pattern takes in {written}, which the stream writes")
        if self.labels is not None and (self.labels.topic in names or self.input.reads(self.labels.topic)):
            raise ValueError(
                f"labels.topic is {self.labels.topic}, which the stream reads or writes: labels need a topic of their own"
            )
        return self

    @model_validator(mode="after")
    def _registry_given(self) -> Self:
        if self.registry is None and (self.input.format in FRAMED or self.output.format in FRAMED):
            raise ValueError(f"the formats {', '.join(FRAMED)} need a registry")
        return self

    @model_validator(mode="after")
    def _explains_nothing_encrypted(self) -> Self:
        if self.explain is not None and (self.input.decrypt is not None or self.output.encrypt is not None):
            raise ValueError("explanations would tell in clear what is encrypted: leave out explain, or encrypt and decrypt")
        return self

    def group_of(self, name: str) -> str:
        """The consumer group of the stream called `name`."""
        return self.group or f"headrace-{name}"
