"""What of a model's traffic is kept, how much of it, and where: the `payloads` section of a Model document."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from cluster.section import Section

TOPIC_NAME = r"^[A-Za-z0-9._-]{1,249}$"


class PayloadForm(StrEnum):
    """How a topic's records look."""

    EVENT = "event"
    """One event of ours a prediction."""
    KSERVE = "kserve"
    """KServe's two CloudEvents of one id: the request, then the response."""


class PayloadTopic(Section):
    """A topic, which must exist. `brokers` is `host:port[,host:port]`; left out, the project's own broker. `security` is as in a
    Stream document; its files and secrets are looked for where the model is scored."""

    topic: str = Field(pattern=TOPIC_NAME)
    brokers: str | None = None
    form: PayloadForm = PayloadForm.EVENT
    security: dict[str, Any] = Field(default_factory=dict)


class PayloadFiles(Section):
    """Parquet files below `path`: a folder of each node that scores, or a URI such as s3://bucket/payloads."""

    path: str = Field(min_length=1)
    every_s: float = Field(default=60.0, ge=0.1, le=3600, description="a process writes its files so often")
    encrypt: str = Field(
        default="", description="a key, by its name or `file:`, that the files are encrypted for (docs/privacy.md)"
    )


class Payloads(Section):
    """The `payloads` section. A share of all predictions, and of those that went wrong, each kept with what it stands for."""

    sample: float = Field(default=0.01, ge=0, le=1, description="share of all requests or records, by hash of their id")
    errors: float = Field(default=1.0, ge=0, le=1, description="share of those that got no answer")
    disagreements: float = Field(default=1.0, ge=0, le=1, description="share of those on which a shadow disagrees with stable")
    outliers: float = Field(
        default=0.0, ge=0, le=1, description="share of rows unlike the profile's, of those that are looked at; not of batches"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="another seed samples others")
    redact: tuple[str, ...] = Field(default=(), max_length=1000, description="inputs and outputs that are never kept, by name")
    kafka: PayloadTopic | None = None
    parquet: PayloadFiles | None = None
    buffer_bytes: int = Field(
        default=64 << 20, ge=1 << 16, le=1 << 32, description="what may wait in a process for each place; the rest is dropped"
    )

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.kafka is None and self.parquet is None:
            raise ValueError("say where they go: kafka, parquet, or both")
        return self
