"""The schema registry's HTTP API, as far as streams need it. What was found is kept: an id never changes its meaning."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.errors import BadInput, NotFound, Unreachable
from consumers.stream.spec import Registry

CALL_TIMEOUT_S = 5.0
ABSENT_FOR_S = 30.0
ABSENT_KEPT = 10_000
MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema as registered. `kind` is AVRO, JSON or PROTOBUF; `references` are the texts of those that it names, by name."""

    kind: str
    text: str
    references: Mapping[str, str]


class Schemas:
    """One registry. Called from one thread. Raises BadInput where a secret can't be read."""

    def __init__(self, registry: Registry) -> None:
        password = registry.password()
        self._url = registry.url.rstrip("/")
        self._client = httpx.Client(
            timeout=CALL_TIMEOUT_S,
            auth=(registry.username, password or "") if registry.username else None,
            verify=registry.ca_file or True,
            headers={"Accept": MEDIA_TYPE},
        )
        self._found: dict[int | str, RegisteredSchema] = {}
        self._absent: dict[int | str, float] = {}

    def find(self, schema_id: int | str) -> RegisteredSchema:
        """The schema of this number, or of this GUID. Raises NotFound, and Unreachable where the registry does not say."""
        found = self._found.get(schema_id)
        if found is None:
            if time.monotonic() - self._absent.get(schema_id, -ABSENT_FOR_S) < ABSENT_FOR_S:
                raise _unknown(schema_id, self._url)
            path = f"/schemas/ids/{schema_id}" if isinstance(schema_id, int) else f"/schemas/guids/{schema_id}"
            try:
                found = self._found[schema_id] = self._registered(self._call("GET", path))
            except NotFound:
                if len(self._absent) >= ABSENT_KEPT:  # producers decide how many there are
                    self._absent.clear()
                self._absent[schema_id] = time.monotonic()
                raise _unknown(schema_id, self._url) from None
        return found

    def register(self, subject: str, kind: str, schema: Mapping[str, Any]) -> int:
        """The id of the schema under the subject, registered now where it is not yet. Raises BadInput where it is refused."""
        body = {"schemaType": kind, "schema": json.dumps(schema)}
        return int(self._call("POST", f"/subjects/{subject}/versions", body)["id"])

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def _registered(self, answer: Mapping[str, Any]) -> RegisteredSchema:
        references: dict[str, str] = {}
        self._follow(answer.get("references") or [], references)
        return RegisteredSchema(answer.get("schemaType") or "AVRO", str(answer["schema"]), references)

    def _follow(self, references: list[dict[str, Any]], found: dict[str, str]) -> None:
        """Those that a reference itself refers to come first, as parsers want them."""
        for each in references:
            if each["name"] in found:
                continue
            answer = self._call("GET", f"/subjects/{each['subject']}/versions/{each['version']}")
            self._follow(answer.get("references") or [], found)
            found[each["name"]] = str(answer["schema"])

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._client.request(method, self._url + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"the schema registry does not answer: {type(error).__name__}", where=self._url, remedy="check spec.registry.url"
            ) from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(f"the schema registry knows no {path}", where=self._url, remedy="register it")
        if answer.status_code in (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY):
            raise BadInput(
                f"the schema registry refuses {path}: {answer.text[:300]}",
                where=self._url,
                remedy="see the subject's compatibility",
            )
        if not answer.is_success:  # no permission, a leader that is away: it may answer later
            raise Unreachable(
                f"the schema registry answers {answer.status_code} to {path}", where=self._url, remedy="check spec.registry"
            )
        told: dict[str, Any] = answer.json()
        return told


def _unknown(schema_id: int | str, url: str) -> NotFound:
    return NotFound(f"the schema registry knows no schema {schema_id}", where=url, remedy="register it before sending")
