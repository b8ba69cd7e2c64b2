"""Fields of answers, encrypted before they leave."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from cluster.errors import BadInput, HeadraceError
from consumers.stream.log.port import Header
from consumers.stream.sealed.book import SubjectBook, must_hold
from consumers.stream.sealed.section import EncryptedOutput
from consumers.stream.spec import StreamSpec
from deployments.privacy.fields import seal_field

HEADER = "header:"


def sealer_of(spec: StreamSpec, subjects: SubjectBook | None) -> AnswerSealer | None:
    """What encrypts the stream's answers; None where nothing does. Raises Unreachable where keys can't be had now, BadInput where
    there is nobody to ask for them."""
    wanted = spec.output.encrypt
    if subjects is None and (wanted is not None or spec.input.decrypt is not None):
        what, remedy = "its fields are encrypted, and there is no controller here", "run it in the cluster"
        raise BadInput(what, where="encrypt, decrypt", remedy=remedy)
    return AnswerSealer(wanted, spec.output.topic, subjects) if wanted is not None and subjects is not None else None


class AnswerSealer:
    """Of one stream. Its keys are had, and made, as it is made."""

    def __init__(self, section: EncryptedOutput, topic: str, subjects: SubjectBook) -> None:
        """Raises Unreachable where keys can't be had now."""
        self._section, self._topic, self._subjects = section, topic, subjects
        try:
            subjects.open(section.keys, section.key)
        except HeadraceError as error:
            raise must_hold(error) from error

    def sealed(
        self, bodies: Sequence[bytes], keys: Sequence[bytes | None], headers: Sequence[Sequence[Header]]
    ) -> tuple[list[bytes], dict[int, BadInput]]:
        """The answers, JSON objects, with their fields encrypted; `keys` and `headers` are those of their records. Those that
        can't be are empty, and why by their places. Raises Unreachable where keys can't be had now."""
        refused: dict[int, BadInput] = {}
        subjects: dict[int, str] = {}
        for place, (key, own) in enumerate(zip(keys, headers, strict=True)):
            try:
                subjects[place] = self._subject(key, own)
            except BadInput as error:
                refused[place] = error
        name = self._section.keys
        try:
            pseudonyms = self._subjects.pseudonyms(name, set(subjects.values()))
            subject_keys = self._subjects.keys_of(name, pseudonyms.values())
        except HeadraceError as error:
            raise must_hold(error) from error
        found = [b""] * len(bodies)
        for place, subject in subjects.items():
            pseudonym = pseudonyms[subject]
            subject_key = subject_keys[pseudonym]
            if subject_key is None:
                remedy = "none: nothing of it is to be kept"
                refused[place] = BadInput("its subject was erased", where=self._section.subject, remedy=remedy)
            else:
                found[place] = self._one(bodies[place], subject_key, pseudonym)
        return found, refused

    def _subject(self, key: bytes | None, headers: Sequence[Header]) -> str:
        asked = self._section.subject
        if asked.startswith(HEADER):
            named = asked.removeprefix(HEADER)
            key = next((value for name, value in reversed(headers) if name == named), None)
        if not key:
            raise BadInput("it names no subject", where=asked, remedy="send it with one, or change encrypt.subject")
        return key.decode("utf-8", "surrogateescape")

    def _one(self, body: bytes, key: bytes, pseudonym: str) -> bytes:
        section, document = self._section, orjson.loads(body)
        for field in section.fields:
            value = orjson.dumps(document[field])
            document[field] = seal_field(value, key, keys=section.keys, pseudonym=pseudonym, topic=self._topic, field=field)
        return orjson.dumps(document)
