"""What stands before a value that a schema registry describes: which schema it was written with."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence

from cluster.errors import BadInput
from consumers.stream.log.port import Header

SCHEMA_HEADER = "__value_schema_id"
PREFIX = struct.Struct(">bi")
MAGIC_ID, MAGIC_GUID = 0, 1


def unframe(value: bytes | None, headers: Sequence[Header]) -> tuple[int | str, bytes]:
    """The schema's number or GUID, and the bytes that it describes: the header counts where there is one. Raises BadInput."""
    if not value:
        raise BadInput("the record has no value", where="value", remedy="send it with its schema's id")
    stated = next((stated for name, stated in reversed(headers) if name == SCHEMA_HEADER), None) if headers else None
    if stated is not None:
        return _from_header(stated), value
    if len(value) < PREFIX.size:
        raise BadInput(f"{len(value)} bytes hold no schema id", where="value", remedy="send it with its schema's id")
    magic, number = PREFIX.unpack_from(value)
    if magic != MAGIC_ID:
        raise BadInput("the first byte is not 0", where="value", remedy="send it with its schema's id")
    return _checked(number, "value"), value[PREFIX.size :]


def frame(schema_id: int) -> bytes:
    """What goes before a value of this schema."""
    return PREFIX.pack(MAGIC_ID, schema_id)


def _from_header(stated: bytes) -> int | str:
    if len(stated) == 17 and stated[0] == MAGIC_GUID:
        return str(uuid.UUID(bytes=stated[1:]))
    if len(stated) == PREFIX.size and stated[0] == MAGIC_ID:
        return _checked(PREFIX.unpack(stated)[1], f"header {SCHEMA_HEADER}")
    raise BadInput("holds no schema id", where=f"header {SCHEMA_HEADER}", remedy="send byte 1 and the schema's GUID")


def _checked(number: int, where: str) -> int:
    if number < 0:  # not to be asked for: to some registries that is no schema's address, and so no answer about one
        raise BadInput(f"{number} is no schema's id", where=where, remedy="send it with its schema's id")
    return number
