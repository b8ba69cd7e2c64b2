"""Encrypted fields of records that come in, opened before they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import simdjson

from cluster.errors import BadInput, HeadraceError, NotFound
from consumers.stream.codecs.codec import Decoded, Decoder
from consumers.stream.log.port import Header
from consumers.stream.sealed.book import SubjectBook, must_hold
from consumers.stream.sealed.one_field import FieldState, KeysByName, opened_field, owners_in
from consumers.stream.sealed.section import DecryptedInput, OnErased


class OpeningDecoder:
    """See Decoder. For JSON: opens fields, and has `inner` decode what comes out. Records themselves stay as they came."""

    def __init__(self, inner: Decoder, section: DecryptedInput, topic: str, subjects: SubjectBook) -> None:
        self._inner, self._section, self._topic, self._subjects = inner, section, topic, subjects
        self._parser = simdjson.Parser()

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:
        """See Decoder. Raises Unreachable where keys can't be had now."""
        documents = [_document(value) for value in values]
        keys = self._keys_for(documents)
        opened: list[bytes | None] = []
        errors: dict[int, BadInput] = {}
        for row, (value, document) in enumerate(zip(values, documents, strict=True)):
            try:
                opened.append(self._opened(document, keys) if document is not None else value)
            except BadInput as error:
                opened.append(None)
                errors[row] = error
        decoded = self._inner.decode(opened, headers)
        return Decoded(decoded.tensors, decoded.rows, decoded.errors | errors)

    def _keys_for(self, documents: Sequence[dict[str, Any] | None]) -> KeysByName:
        """By the names of keys that are known here and pseudonyms: the keys of all that own a field, asked for at once."""
        owners = owners_in(document.get(field) for document in documents if document for field in self._section.fields)
        found: dict[str, dict[str, bytes | None]] = {}
        for name, wanted in owners.items():
            try:
                found[name] = self._subjects.keys_of(name, wanted)
            except NotFound:
                continue  # nobody makes them later, and a record that names what it likes must not hold all that come after it
            except HeadraceError as error:
                raise must_hold(error) from error
        return found

    def _opened(self, document: dict[str, Any], keys: KeysByName) -> bytes:
        for field in self._section.fields:
            if field in document:
                document[field] = self._field(document[field], field, keys)
        try:
            return orjson.dumps(document)
        except TypeError:  # it reads more levels than it writes
            raise BadInput("the record is nested too deeply", where="value", remedy="send a flatter object") from None

    def _field(self, text: object, field: str, keys: KeysByName) -> object:
        found = opened_field(text, keys, topic=self._topic, name=field, parser=self._parser)
        if found.state is FieldState.ERASED and self._section.erased is OnErased.NULL:
            return None
        if found.error is not None:
            raise found.error
        return orjson.Fragment(found.json)


def _document(value: bytes | None) -> dict[str, Any] | None:
    """None where it is no object: which the decoder says better."""
    try:
        document = orjson.loads(value) if value else None
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
