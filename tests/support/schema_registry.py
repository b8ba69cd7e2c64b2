"""A schema registry for tests: the routes of Confluent's HTTP API that clients of streams use, on a free port."""

from __future__ import annotations

import io
import json
import re
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import fastavro

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


@dataclass
class SchemaRegistry:
    """What is registered. `calls` are the requests so far; `away` makes every one a 503.

    `instead` is answered to every call whose path holds `instead_of`: a status and the bytes that something between may send.
    """

    url: str = ""
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    away: bool = False
    instead: tuple[int, bytes] | None = None
    instead_of: str = ""

    def register(self, subject: str, schema: Any, kind: str = "AVRO", references: list[dict[str, Any]] | None = None) -> int:
        """The id of the schema, as POST /subjects/SUBJECT/versions tells it."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        body = {"schema": text, "schemaType": kind, "references": references or []}
        known = next((number for number, old in self.schemas.items() if {k: old[k] for k in body} == body), None)
        if known is None:
            known = len(self.schemas) + 1
            self.schemas[known] = {**body, "guid": str(uuid.uuid4())}
        versions = self.subjects.setdefault(subject, [])
        if known not in versions:
            versions.append(known)
        return known

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """Status and body of one request."""
        self.calls.append(f"{method} {path}")
        if self.away:
            return 503, {"error_code": 50301, "message": "away"}
        if method == "POST" and (match := re.fullmatch(r"/subjects/([^/]+)/versions", path)):
            return 200, {"id": self.register(match[1], body["schema"], body.get("schemaType", "AVRO"), body.get("references"))}
        if match := re.fullmatch(r"/schemas/ids/(\d+)", path):
            return self._schema(self.schemas.get(int(match[1])))
        if match := re.fullmatch(r"/schemas/guids/([0-9a-f-]+)", path):
            return self._schema(next((one for one in self.schemas.values() if one["guid"] == match[1]), None))
        if match := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)\?deleted=true", path):
            return self._version(unquote(match[1]), int(match[2]))
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _version(self, subject: str, version: int) -> tuple[int, dict[str, Any]]:
        if subject not in self.subjects:
            return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
        numbers = self.subjects[subject]
        if not 0 < version <= len(numbers):
            return 404, {"error_code": 40402, "message": f"Version {version} not found."}
        status, told = self._schema(self.schemas[numbers[version - 1]])
        return status, {"subject": subject, "version": version, "id": numbers[version - 1], **told}

    @staticmethod
    def _schema(found: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        if found is None:
            return 404, {"error_code": 40403, "message": "Schema not found"}
        told = {"schema": found["schema"], "guid": found["guid"]}
        # As the real one: AVRO is not said, nor are references that are not there.
        if found["schemaType"] != "AVRO":
            told["schemaType"] = found["schemaType"]
        if found["references"]:
            told["references"] = found["references"]
        return 200, told


def avro(schema: Any, record: Any) -> bytes:
    """The record as Avro's own library writes it."""
    sink = io.BytesIO()
    fastavro.schemaless_writer(sink, fastavro.parse_schema(schema), record)
    return sink.getvalue()


def framed(schema_id: int, body: bytes, magic: int = 0) -> bytes:
    """The body behind its schema's id."""
    return struct.pack(">bi", magic, schema_id) + body


@contextmanager
def schema_registry() -> Iterator[SchemaRegistry]:
    """A registry that runs until the block ends."""
    registry = SchemaRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one packet: the rest of one in two waits 40 ms for the first to be acknowledged

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, told = registry.answer(self.command, self.path, body)
            content = json.dumps(told).encode()
            if registry.instead is not None and registry.instead_of in self.path:
                status, content = registry.instead
            self.send_response(status)
            self.send_header("Content-Type", MEDIA_TYPE)
            if 300 <= status < 400:
                self.send_header("Location", registry.url + "/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815  # the base class's names

        def log_message(self, *_: Any) -> None:
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
