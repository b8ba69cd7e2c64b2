"""A registry over OCI's distribution API: blobs and manifests, as they are to the byte."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import httpx

from cluster.errors import BadInput, Forbidden, NotFound, Unauthenticated, Unreachable
from deployments.images.descriptors import Descriptor
from deployments.images.layout import CHUNK_BYTES, Layout

TIMEOUT_S = 60.0
_LOOPBACKS = ("127.0.0.1", "localhost")
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d+)?)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))"
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest in a registry: its host, its repository, and a tag or digest."""

    host: str
    name: str
    which: str

    def __str__(self) -> str:
        return f"{self.host}/{self.name}{'@' if self.which.startswith('sha256:') else ':'}{self.which}"


def reference_of(text: str, *, where: str) -> Reference:
    """Reads HOST/NAME:TAG or HOST/NAME@sha256:HEX, with or without `oci://`. Raises BadInput. Pure."""
    found = _REFERENCE.fullmatch(text.removeprefix("oci://"))
    if found is None:
        raise BadInput(
            "names nothing in a registry", where=f"{where} {text}", remedy="write HOST/NAME:TAG or HOST/NAME@sha256:HEX"
        )
    return Reference(found["host"], found["name"], found["digest"] or found["tag"])


@dataclass(frozen=True, slots=True)
class Login:
    """A name and password for a registry's host."""

    user: str
    password: str = field(repr=False)


def login_for(host: str, environment: Mapping[str, str]) -> Login | None:
    """What `docker login`, `podman login` or `skopeo login` noted of the host; None where nothing is. Raises BadInput."""
    named = environment.get("REGISTRY_AUTH_FILE")
    runtime, docker = environment.get("XDG_RUNTIME_DIR"), environment.get("DOCKER_CONFIG")
    files = [
        *([Path(named)] if named else []),
        *([Path(runtime) / "containers" / "auth.json"] if runtime else []),
        (Path(docker) if docker else Path.home() / ".docker") / "config.json",
    ]
    for file in files:
        if not file.is_file():
            continue
        try:
            noted = json.loads(file.read_bytes()).get("auths", {}).get(host, {}).get("auth")
            if noted:
                user, _, password = base64.b64decode(noted).decode().partition(":")
                return Login(user, password)
        except (ValueError, AttributeError) as error:
            raise BadInput("is no file of logins", where=str(file), remedy="log in again") from error
    return None


class ImageRegistry:
    """One repository of a registry. Loopback is spoken to in clear, every other host over TLS."""

    def __init__(self, where: Reference, *, environment: Mapping[str, str] | None = None) -> None:
        self._where = where
        scheme = "http" if where.host.partition(":")[0] in _LOOPBACKS else "https"
        self._base = f"{scheme}://{where.host}/v2/{where.name}/"
        self._login = login_for(where.host, os.environ if environment is None else environment)
        self._authorization: str | None = None
        self._http = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def push(self, layout: Layout, one: Descriptor) -> Iterator[tuple[Descriptor, bool]]:
        """Sends a manifest and all that it names, the manifest last: until then the tag stays as it is.

        Yields each blob, and whether it was sent or there. Raises BadArtifact before anything of a damaged blob is kept,
        Unauthenticated, Forbidden, Unreachable.
        """
        document = layout.document(one)
        where = str(layout.folder)
        blobs = [Descriptor.read(each, where) for each in (document["config"], *document.get("layers", []))]
        for blob in blobs:
            layout.check(blob)
        for blob in blobs:
            yield blob, self._send(layout, blob)
        content = layout.path(one.digest).read_bytes()
        answer = self._ask("PUT", f"manifests/{self._where.which}", content=content, headers={"Content-Type": one.media_type})
        self._expect(answer, 201)

    def _send(self, layout: Layout, blob: Descriptor) -> bool:
        if self._ask("HEAD", f"blobs/{blob.digest}").status_code == 200:
            return False
        begun = self._ask("POST", "blobs/uploads/")
        self._expect(begun, 202)
        # The place may be relative, and has a state of its own in its query.
        place = httpx.URL(urljoin(str(begun.request.url), begun.headers["Location"])).copy_merge_params({"digest": blob.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size_bytes)}
        with self._told(), layout.path(blob.digest).open("rb") as file:
            # What was noted of the login goes to the registry alone, wherever it would have the blob sent.
            same = urlsplit(str(place)).netloc == self._where.host
            if same and self._authorization:
                headers["Authorization"] = self._authorization
            answer = self._http.put(place, content=iter(lambda: file.read(CHUNK_BYTES), b""), headers=headers)
        self._expect(answer, 201)
        return True

    def _ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        for last in (False, True):
            sent = {**(headers or {}), **({"Authorization": self._authorization} if self._authorization else {})}
            with self._told():
                answer = self._http.request(method, self._base + path, headers=sent, content=content)
            if answer.status_code != 401 or last:
                break
            self._authorization = self._authorized(answer)
        if answer.status_code in (401, 403):
            self._expect(answer, 200)
        return answer

    def _authorized(self, answer: httpx.Response) -> str:
        challenge = answer.headers.get("WWW-Authenticate", "")
        scheme, asked = challenge.partition(" ")[0].lower(), dict(_CHALLENGE.findall(challenge))
        login = self._login
        if scheme == "basic" and login is not None:
            return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        if scheme != "bearer" or "realm" not in asked:
            raise self._no_login()
        realm = asked["realm"]
        if urlsplit(realm).scheme != urlsplit(self._base).scheme and urlsplit(realm).scheme != "https":
            raise Unauthenticated("asks for a login in clear", where=self._where.host, remedy="ask its operator for TLS")
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        with self._told():
            got = self._http.get(realm, params=query, auth=(login.user, login.password) if login else None)
        if got.status_code != 200:
            raise self._no_login()
        told: dict[str, Any] = got.json()
        return f"Bearer {told.get('token') or told.get('access_token')}"

    def _no_login(self) -> Unauthenticated:
        what = "takes not the login that is noted" if self._login else "asks for a login"
        return Unauthenticated(what, where=self._where.host, remedy=f"log in first: skopeo login {self._where.host}")

    def _expect(self, answer: httpx.Response, status: int) -> None:
        if answer.status_code == status:
            return
        if answer.status_code == 401:
            raise self._no_login()
        if answer.status_code == 403:
            raise Forbidden("the registry does not allow it", where=str(self._where), remedy="ask its operator for the right")
        if answer.status_code == 404:
            raise NotFound("the registry has none", where=str(self._where), remedy="check name and tag")
        raise Unreachable(
            f"the registry answered {answer.status_code} to {answer.request.method}: what was sent is not tagged",
            where=str(self._where),
            remedy="push again: what is there already is not sent twice",
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the registry can't be reached, or broke off: {type(error).__name__}",
                where=str(self._where),
                remedy="see that it runs, and try again: what is there already is not sent twice",
            ) from error
