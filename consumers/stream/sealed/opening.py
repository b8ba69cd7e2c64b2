"""Encrypted fields of records that come in, opened before they are decoded."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from cluster.errors import BadInput, HeadraceError, NotFound
from consumers.stream.codecs.codec import Decoded, Decoder
from consumers.stream.log.port import Header
from consumers.stream.sealed.book import SubjectBook, must_hold
from consumers.stream.sealed.section import DecryptedInput, OnErased
from deployments.privacy.fields import open_field, owner_of


class OpeningDecoder:
    """See Decoder. For JSON: opens fields, and has `inner` decode what comes out. Records themselves stay as they came."""

    def __init__(self, inner: Decoder, section: DecryptedInput, topic: str, subjects: SubjectBook) -> None:
        self._inner, self._section, self._topic, self._subjects = inner, section, topic, subjects

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:
        """See Decoder. Raises Unreachable where keys can't be had now."""
        opened: list[bytes | None] = []
        errors: dict[int, BadInput] = {}
        for row, value in enumerate(values):
            try:
                opened.append(self._opened(value) if value else value)
            except BadInput as error:
                opened.append(None)
                errors[row] = error
        decoded = self._inner.decode(opened, headers)
        return Decoded(decoded.tensors, decoded.rows, decoded.errors | errors)

    def _opened(self, value: bytes) -> bytes:
        try:
            document = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value  # which the decoder says better
        if not isinstance(document, dict):
            return value
        for field in self._section.fields:
            if field in document:
                document[field] = self._field(document[field], field)
        return orjson.dumps(document)

    def _field(self, text: object, field: str) -> object:
        owner = owner_of(text)
        if owner is None or not isinstance(text, str):
            remedy = "encrypt it as a stream with `encrypt` does, or take it out of `decrypt`"
            raise BadInput("it is not encrypted", where=field, remedy=remedy)
        try:
            key = self._subjects.key_of(*owner)
        except NotFound:  # nobody makes them later, and a record that names what it likes must not hold all that come after it
            what, remedy = "it is under keys that are not known here", "read it where it was encrypted, or restore the store"
            raise BadInput(what, where=field, remedy=remedy) from None
        except HeadraceError as error:
            raise must_hold(error) from error
        if key is None:
            if self._section.erased is OnErased.NULL:
                return None
            raise BadInput(
                "its subject was erased: nothing opens it", where=field, remedy="none; `erased: null` takes it for null"
            )
        try:
            return orjson.loads(open_field(text, key, topic=self._topic, field=field))
        except orjson.JSONDecodeError:
            raise BadInput("what was encrypted is no JSON", where=field, remedy="encrypt the field's value as JSON") from None
