"""The schema registry's HTTP API, as far as streams need it. What was found is kept: an id never changes its meaning.

Whatever stands between may answer for the registry, with a page of its own and any status. So only what has the registry's own
form counts as said by it; all else means that it is away, and costs no record.
"""

from __future__ import annotations

import copy
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from cluster.errors import BadInput, HeadraceError, NotFound, Unreachable
from consumers.stream.codecs.framing import SCHEMA_HEADER
from consumers.stream.security import Registry

CALL_TIMEOUT_S = 5.0
ABSENT_FOR_S = 30.0
ABSENT_KEPT = 10_000
MOST_BYTES = 8 * 1024 * 1024  # of one answer
MOST_REFERENCES = 200  # of one schema, through all levels
MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
BY_GUID = "/schemas/guids/"
NO_SUBJECT, NO_VERSION, NO_SCHEMA = 40401, 40402, 40403
REFUSALS = (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY)


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema as registered. `kind` is AVRO, JSON or PROTOBUF; an Avro schema's `references` are the texts it names, by name."""

    kind: str
    text: str
    references: Mapping[str, str]


class Schemas:
    """One registry. Called from one thread. Raises BadInput where the secret, the `ca_file` or a proxy can't be used."""

    def __init__(self, registry: Registry) -> None:
        self._url = registry.url.rstrip("/")
        self._client = _client(registry)
        self._found: dict[int | str, RegisteredSchema] = {}
        self._absent: dict[int | str, tuple[float, HeadraceError]] = {}

    def find(self, schema_id: int | str) -> RegisteredSchema:
        """The schema of this number, or of this GUID.

        Raises NotFound where the registry says that it has no such schema, or not all that an Avro schema refers to; BadInput
        where that is too much; Unreachable where the registry does not say.
        """
        found = self._found.get(schema_id)
        if found is None:
            since_s, error = self._absent.get(schema_id, (0.0, None))
            if error is not None and time.monotonic() - since_s < ABSENT_FOR_S:
                raise copy.copy(error)
            try:
                found = self._found[schema_id] = self._registered(schema_id)
            except (NotFound, BadInput) as missing:
                if len(self._absent) >= ABSENT_KEPT:  # producers decide how many there are
                    self._absent.clear()
                self._absent[schema_id] = (time.monotonic(), copy.copy(missing))
                raise
        return found

    def register(self, subject: str, kind: str, schema: Mapping[str, Any]) -> int:
        """The id of the schema under the subject, registered now where it is not yet.

        Raises BadInput where the registry refuses it, Unreachable where it does not say.
        """
        path = f"/subjects/{quote(subject, safe='')}/versions"
        status, answer = self._ask("POST", path, {"schemaType": kind, "schema": json.dumps(schema)})
        if status in REFUSALS and _code(answer) is not None:
            what = f"the schema registry refuses {path}: {str(answer.get('message'))[:300]}"
            raise BadInput(what, where=self._url, remedy="see the subject's compatibility")
        number = answer.get("id")
        if not httpx.codes.is_success(status) or type(number) is not int or not 0 <= number < 2**31:
            raise self._away(status, path)
        return number

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def _registered(self, schema_id: int | str) -> RegisteredSchema:
        path = f"/schemas/ids/{schema_id}" if isinstance(schema_id, int) else f"{BY_GUID}{schema_id}"
        answer = self._schema_at(path, absent=(NO_SCHEMA,))
        if answer is None:
            what = f"the schema registry knows no schema {schema_id}"
            raise NotFound(what, where=self._url, remedy="register it before sending")
        references: dict[str, str] = {}
        if answer["schemaType"] == "AVRO":  # nobody reads those of the others
            self._follow(schema_id, answer["references"], references, set())
        return RegisteredSchema(answer["schemaType"], answer["schema"], references)

    def _follow(self, schema_id: int | str, references: list[dict[str, Any]], found: dict[str, str], begun: set[str]) -> None:
        """Those that a reference itself refers to come first, as parsers want them. A circle is gone round once."""
        for each in references:
            if each["name"] in begun:
                continue
            begun.add(each["name"])
            if len(begun) > MOST_REFERENCES:
                what = f"schema {schema_id} refers to more than {MOST_REFERENCES} others"
                raise BadInput(what, where=self._url, remedy="register it as fewer")
            subject, version = each["subject"], each["version"]
            # Deleted ones too: softly deleted, they still describe what was written with them.
            path = f"/subjects/{quote(subject, safe='')}/versions/{version}?deleted=true"
            answer = self._schema_at(path, absent=(NO_SUBJECT, NO_VERSION, NO_SCHEMA))
            if answer is None:  # the schema is there, and nobody can read what was written with it
                what = f"schema {schema_id} refers to version {version} of {subject}, which the schema registry does not have"
                raise NotFound(what, where=self._url, remedy="register that again")
            self._follow(schema_id, answer["references"], found, begun)
            found[each["name"]] = answer["schema"]

    def _schema_at(self, path: str, *, absent: tuple[int, ...]) -> dict[str, Any] | None:
        """`schema`, `schemaType` and `references` of what lies there; None where the registry says by its own code: nothing."""
        status, answer = self._ask("GET", path)
        if status == httpx.codes.NOT_FOUND and _code(answer) in absent:
            return None
        schema, kind, references = answer.get("schema"), answer.get("schemaType") or "AVRO", answer.get("references") or []
        whole = isinstance(schema, str) and isinstance(kind, str) and isinstance(references, list)
        if not httpx.codes.is_success(status) or not whole or not all(map(_is_reference, references)):
            raise self._away(status, path)
        return {"schema": schema, "schemaType": kind, "references": references}

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and answer; an empty one where it is no JSON object."""
        content, until_s = bytearray(), time.monotonic() + CALL_TIMEOUT_S
        try:
            with self._client.stream(method, self._url + path, json=body) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MOST_BYTES or time.monotonic() > until_s:  # the client's own limit is one of each read
                        raise self._away(response.status_code, path)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last is a host that can't be a name
            raise Unreachable(
                f"the schema registry does not answer: {type(error).__name__}", where=self._url, remedy="check spec.registry.url"
            ) from error
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:  # a page of something between, or nothing: what it means, the status says
            answer = None
        return response.status_code, answer if isinstance(answer, dict) else {}

    def _away(self, status: int, path: str) -> Unreachable:
        """It, or something between, answers what means nothing: no permission, a leader that is away, a proxy's page."""
        odd = ", and not as a schema registry does" if status in (httpx.codes.OK, httpx.codes.NOT_FOUND) else ""
        what, remedy = f"the schema registry answers {status} to {path}{odd}", "check spec.registry, and what stands between"
        if status == httpx.codes.NOT_FOUND and path.startswith(BY_GUID):
            # As an older registry does, or one of another maker. That the schema is unknown it would say by its own code.
            what += f"; a record names its schema by GUID (header {SCHEMA_HEADER}), which not every registry can look up"
            remedy = f"use a registry that has {BY_GUID}, or have the producer send the schema's number; {remedy}"
        return Unreachable(what, where=self._url, remedy=remedy)


def _client(registry: Registry) -> httpx.Client:
    password = registry.password()
    try:
        return httpx.Client(
            timeout=CALL_TIMEOUT_S,
            auth=(registry.username, password or "") if registry.username else None,
            verify=ssl.create_default_context(cafile=registry.ca_file) if registry.ca_file else True,
            headers={"Accept": MEDIA_TYPE},
            follow_redirects=False,  # a password goes where the document says, and nowhere else
        )
    except UnicodeError:  # which holds the password
        what = "username or password are no UTF-8"
        raise BadInput(what, where="spec.registry", remedy="correct them on the consumers' nodes") from None
    except (ValueError, ImportError, httpx.InvalidURL):  # which may hold that of a proxy
        what, where = "the environment names a proxy that can't be used", "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY"
        raise BadInput(what, where=where, remedy="correct it on the consumers' nodes") from None
    except OSError as error:
        remedy = "make it readable on the consumers' nodes, in PEM"
        raise BadInput(f"no certificates: {error}", where="spec.registry.ca_file", remedy=remedy) from error


def _code(answer: Mapping[str, Any]) -> int | None:
    code = answer.get("error_code")
    return code if type(code) is int else None


def _is_reference(each: object) -> bool:
    if not isinstance(each, dict):
        return False
    return isinstance(each.get("name"), str) and isinstance(each.get("subject"), str) and type(each.get("version")) is int
