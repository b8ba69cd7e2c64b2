"""Encrypted fields of records that come in, opened before they are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import simdjson

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

    def _keys_for(self, documents: Sequence[dict[str, Any] | None]) -> dict[str, dict[str, bytes | None]]:
        """By the names of keys that are known here and pseudonyms: the keys of all that own a field, asked for at once."""
        owners = {owner_of(document.get(field)) for document in documents if document for field in self._section.fields}
        pseudonyms: dict[str, list[str]] = {}
        for name, pseudonym in filter(None, owners):
            pseudonyms.setdefault(name, []).append(pseudonym)
        found: dict[str, dict[str, bytes | None]] = {}
        for name, wanted in pseudonyms.items():
            try:
                found[name] = self._subjects.keys_of(name, wanted)
            except NotFound:
                continue  # nobody makes them later, and a record that names what it likes must not hold all that come after it
            except HeadraceError as error:
                raise must_hold(error) from error
        return found

    def _opened(self, document: dict[str, Any], keys: Mapping[str, Mapping[str, bytes | None]]) -> bytes:
        for field in self._section.fields:
            if field in document:
                document[field] = self._field(document[field], field, keys)
        try:
            return orjson.dumps(document)
        except TypeError:  # it reads more levels than it writes
            raise BadInput("the record is nested too deeply", where="value", remedy="send a flatter object") from None

    def _field(self, text: object, field: str, keys: Mapping[str, Mapping[str, bytes | None]]) -> object:
        owner = owner_of(text)
        if owner is None or not isinstance(text, str):
            remedy = "encrypt it as a stream with `encrypt` does, or take it out of `decrypt`"
            raise BadInput("it is not encrypted", where=field, remedy=remedy)
        name, pseudonym = owner
        if name not in keys:
            what, remedy = "it is under keys that are not known here", "read it where it was encrypted, or restore the store"
            raise BadInput(what, where=field, remedy=remedy)
        key = keys[name][pseudonym]
        if key is None:
            if self._section.erased is OnErased.NULL:
                return None
            raise BadInput(
                "its subject was erased: nothing opens it", where=field, remedy="none; `erased: null` takes it for null"
            )
        value = open_field(text, key, topic=self._topic, field=field)
        try:
            self._parser.parse(value)  # a whole value of JSON, so that it can be put in its place as it is
        except ValueError:
            raise BadInput("what was encrypted is no JSON", where=field, remedy="encrypt the field's value as JSON") from None
        return orjson.Fragment(value)


def _document(value: bytes | None) -> dict[str, Any] | None:
    """None where it is no object: which the decoder says better."""
    try:
        document = orjson.loads(value) if value else None
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
