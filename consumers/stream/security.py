"""How a stream shows who it is, to the broker and to a schema registry. Passwords lie on the consumers' nodes, never in a
document."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from cluster.errors import BadInput
from cluster.section import Section


class Protocol(StrEnum):
    """How clients talk to the broker."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class Secret(Section):
    """A user whose password lies in an environment variable or a file on the consumer's node, never in the document."""

    username: str | None = None
    password_env: str | None = None
    password_file: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.password_env and self.password_file:
            raise ValueError("give password_env or password_file, not both")
        return self

    def password(self) -> Password | None:
        """The secret itself. Raises BadInput where it can't be read."""
        return _read("password", self.password_env, self.password_file)


class Password(str):
    """Hides itself where a configuration is shown whole, as clients do in their debug logs."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def _read(what: str, variable: str | None, file: str | None) -> Password | None:
    if variable:
        value = os.environ.get(variable)
        if value is None:
            raise BadInput(f"{variable} is not set", where=f"{what}_env", remedy="set it on the consumers' nodes")
        return Password(value)
    if file:
        try:
            return Password(Path(file).read_text(encoding="utf-8").strip())
        except OSError as error:
            raise BadInput(str(error), where=f"{what}_file", remedy="make it readable on the consumers' nodes") from error
        except UnicodeDecodeError:  # which holds all that was read
            raise BadInput(f"{file} is not UTF-8 text", where=f"{what}_file", remedy="write the password alone into it") from None
    return None


class Security(Secret):
    """TLS and SASL. Files lie on the consumers' nodes; the password of an encrypted `key_file` is kept as the user's is."""

    protocol: Protocol = Protocol.PLAINTEXT
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password_env: str | None = None
    key_password_file: str | None = None
    mechanism: str | None = Field(default=None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.protocol.startswith("SASL") and (self.mechanism is None or self.username is None):
            raise ValueError("SASL needs mechanism and username")
        if self.key_password_env and self.key_password_file:
            raise ValueError("give key_password_env or key_password_file, not both")
        return self

    @property
    def identifies(self) -> bool:
        """Whether a user or a certificate is shown."""
        return self.mechanism is not None or self.cert_file is not None

    def key_password(self) -> Password | None:
        """What `key_file` is encrypted with. Raises BadInput where it can't be read."""
        return _read("key_password", self.key_password_env, self.key_password_file)


class Registry(Secret):
    """A schema registry, for the formats `avro` and `json_schema`. An answer's schema is registered as `TOPIC-value`.

    Where it is away, or something else answers in its place, the stream waits; a schema that it says it does not know costs the
    record.
    """

    url: str = Field(pattern=r"^https?://")
    ca_file: str | None = None
