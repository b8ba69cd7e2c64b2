"""Registries on this machine: Debian's docker-registry, and a small one that speaks the same API and can break off."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from headrace.local.ports import free_port
from tests.support.waiting import until

USER, PASSWORD = "ann", "correct horse"
# bcrypt of the password, as `htpasswd -B` makes it.
HTPASSWD = "ann:$2b$04$XNubQP2eZEZBTk3Ewbv36O8p6ZFZlhF5vrFsidtMcVdKNOAlQabhu\n"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass(frozen=True)
class RunningRegistry:
    """Its HOST:PORT; `damage` changes one byte of a blob that it keeps."""

    host: str
    damage: Callable[[str], None]


def logged_in(folder: Path, host: str) -> dict[str, str]:
    """An environment in which the login for the host is noted, as `skopeo login` does."""
    file = folder / "auth.json"
    file.write_text(json.dumps({"auths": {host: {"auth": BASIC.removeprefix("Basic ")}}}))
    return {"REGISTRY_AUTH_FILE": str(file)}


@contextmanager
def real_registry(folder: Path, *, login: bool = False) -> Iterator[RunningRegistry]:
    """Debian's. Skips the test where it is not installed."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not here: `make tools` as root")
    folder.mkdir(exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    words = [
        "version: 0.1",
        f"storage: {{filesystem: {{rootdirectory: {folder / 'kept'}}}}}",
        f"http: {{addr: '{host}'}}",
    ]
    if login:
        (folder / "htpasswd").write_text(HTPASSWD)
        words.append(f"auth: {{htpasswd: {{realm: here, path: {folder / 'htpasswd'}}}}}")
    config = folder / "registry.yml"
    config.write_text("\n".join(words))

    def damage(digest: str) -> None:
        name = digest.removeprefix("sha256:")
        _change_last_byte(folder / "kept/docker/registry/v2/blobs/sha256" / name[:2] / name / "data")

    server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(
            lambda: httpx.get(f"http://{host}/v2/", trust_env=False).status_code in (200, 401),
            20,
            trouble=(httpx.TransportError,),
        )
        yield RunningRegistry(host, damage)
    finally:
        server.terminate()
        server.wait(timeout=20)


def _change_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@dataclass
class SmallRegistry:
    """What a small registry keeps, and how it is to behave.

    `breaks_at` is which blob it breaks off in the midst of, counted from 0; `refuses_manifests`: it answers those with 500.
    `login` is how it asks for one: not at all, `basic` or `bearer`.
    """

    login: str = ""
    breaks_at: int | None = None
    refuses_manifests: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    uploads: int = 0

    @contextmanager
    def serving(self) -> Iterator[RunningRegistry]:
        """Serves it."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kept": self}))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield RunningRegistry(f"127.0.0.1:{server.server_address[1]}", self._damage)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _damage(self, digest: str) -> None:
        content = self.blobs[digest]
        self.blobs[digest] = content[:-1] + bytes([content[-1] ^ 1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece
    kept: SmallRegistry

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            self._send(200, json.dumps({"token": "let-in"}).encode()) if self._is(BASIC) else self._send(401)
        elif self._may():
            blob = self.kept.blobs.get(self.path.rpartition("/")[2])
            media_type, content = self.kept.manifests.get(self.path) or ("application/octet-stream", blob)
            self._send(404) if content is None else self._send(200, content, {"Content-Type": media_type})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._may():
            self._send(202, b"", {"Location": f"{self.path}{self.kept.uploads}?state=x"})

    def do_PUT(self) -> None:
        if not self._may():
            return
        length = int(self.headers["Content-Length"])
        if "/blobs/" in self.path:
            self.kept.uploads += 1
            if self.kept.breaks_at == self.kept.uploads - 1:
                self.rfile.read(length // 2)
                self.close_connection = True
                return
            digest = httpx.URL(self.path).params["digest"]
            content = self.rfile.read(length)
            if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
                self._send(400)
                return
            self.kept.blobs[digest] = content
        else:
            content = self.rfile.read(length)
            if self.kept.refuses_manifests:
                self._send(500)
                return
            told = self.headers["Content-Type"], content
            for which in (f"sha256:{hashlib.sha256(content).hexdigest()}", self.path.rpartition("/")[2]):
                self.kept.manifests[f"{self.path.rpartition('/')[0]}/{which}"] = told
        self._send(201)

    def _may(self) -> bool:
        wanted = {"": None, "basic": BASIC, "bearer": "Bearer let-in"}[self.kept.login]
        if wanted is None or self._is(wanted):
            return True
        realm = f"http://{self.headers['Host']}/token"
        asks = {"basic": 'Basic realm="here"', "bearer": f'Bearer realm="{realm}",service="here",scope="repository:x:pull,push"'}
        self._send(401, b"", {"WWW-Authenticate": asks[self.kept.login]})
        return False

    def _is(self, authorization: str) -> bool:
        return self.headers.get("Authorization") == authorization

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
