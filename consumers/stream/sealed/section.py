"""Which fields of a stream's records are encrypted: parts of a Stream document."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from cluster.section import Section


class OnErased(StrEnum):
    """What becomes of an encrypted field whose key was destroyed."""

    DEAD_LETTER = "dead_letter"
    NULL = "null"


class EncryptedOutput(Section):
    """Outputs that leave encrypted, each under the key of the record's subject, who is named by the record's key or a header.

    `keys` names the subjects' keys, which are made where there are none, sealed for the key-encryption key `key` (a name in
    HEADRACE_HOME/keys, `file:`, `env:`). A record without a subject, or of one that was erased, is a dead letter.
    """

    fields: tuple[str, ...] = Field(min_length=1, description="outputs of the model")
    key: str = Field(min_length=1)
    keys: str = Field(default="subjects", pattern=r"^[a-z0-9-]{1,63}$")
    subject: str = Field(default="key", pattern=r"^(key|header:.+)$", description="`key`, or `header:NAME`")


class DecryptedInput(Section):
    """Fields of the input's top that come encrypted as another stream's `encrypt` leaves them. In clear they are refused.

    `topic` is what they were encrypted for, where that is not the topic that is read: one that mirrors it, say.
    """

    fields: tuple[str, ...] = Field(min_length=1)
    topic: str = ""
    erased: OnErased = OnErased.DEAD_LETTER
