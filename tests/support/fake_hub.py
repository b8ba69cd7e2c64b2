"""A hub on this machine with the few addresses that fetching a model asks for, as Hugging Face's own answers them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "5fb0ae1c1ed3ef22a7b4ef4bd0a9a3c8f5b5a9d1"
# What it says of repos that nobody may have, by their names; of a gated one the files alone are kept back.
REFUSALS = {"owner/private": (401, "RepoNotFound"), "owner/broken": (500, "")}
GATED = "owner/gated"


@contextmanager
def fake_hub(repos: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serves the files of each repo, at the branch `main`. Yields its address, and the requests as they come."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = urlsplit(self.path).path.strip("/")
            asked.append(f"{self.command} {path} {self.headers.get('authorization', '')}")
            parts = path.removeprefix("api/models/").split("/")
            repo = "/".join(parts[:2])
            if repo in REFUSALS or repo not in repos:
                status, code = REFUSALS.get(repo, (404, "RepoNotFound"))
                self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": "no"}, body)
                return
            files, (kind, revision, *rest) = repos[repo], parts[2:]
            if revision not in ("main", COMMIT):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            elif kind == "revision":
                self._json(
                    {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": n, "size": len(c)} for n, c in files.items()]}, body
                )
            elif kind == "tree":
                listed = [{"type": "file", "path": n, "size": len(c), "oid": _digest(c)} for n, c in files.items()]
                self._json(listed, body)
            elif repo == GATED:
                self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "no"}, body)
            else:
                content = files["/".join(rest)]
                self._send(200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT}, body)

        def _json(self, value: Any, body: bool) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

        def _send(self, status: int, content: bytes, headers: Mapping[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()  # as git does
