"""A registry over OCI's distribution API: blobs and manifests, as they are to the byte, sent and fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Self, cast
from urllib.parse import urljoin, urlsplit

import httpx

from cluster.errors import BadArtifact, Forbidden, NotFound, Unauthenticated, Unreachable
from deployments.oci.descriptors import INDEX_TYPES, MANIFEST_TYPES, Descriptor, digest_of
from deployments.oci.layout import CHUNK_BYTES, DOCUMENT_MOST_BYTES, Layout
from deployments.oci.references import Reference, login_for

TIMEOUT_S = 60.0
_LOOPBACKS = ("127.0.0.1", "localhost")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))


class ImageRegistry:
    """One repository of a registry. Loopback is spoken to in clear, every other host over TLS.

    Its methods raise Unauthenticated, Forbidden, NotFound, and Unreachable where it breaks off; BadArtifact for what is damaged.
    """

    def __init__(self, where: Reference, *, environment: Mapping[str, str] | None = None) -> None:
        self._where = where
        is_here = where.host.partition(":")[0] in _LOOPBACKS
        self._base = f"{'http' if is_here else 'https'}://{where.host}/v2/{where.name}/"
        self._login = login_for(where.host, os.environ if environment is None else environment)
        self._authorization: str | None = None
        self._http = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=not is_here)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def push(self, layout: Layout, one: Descriptor) -> Iterator[tuple[Descriptor, bool]]:
        """Sends a manifest, or an index of some, and all that it names, itself last: until then the tag stays as it is.

        Yields each blob, and whether it was sent or there. Nothing is sent where anything of it is damaged.
        """
        manifests = _with_those_below(layout, one)
        blobs = {blob.digest: blob for manifest in manifests for blob in _blobs_of(layout, manifest)}
        for blob in blobs.values():
            layout.check(blob)
        for blob in blobs.values():
            yield blob, self._send(layout, blob)
        for manifest in manifests:
            which = self._where.which if manifest is manifests[-1] else manifest.digest
            content = layout.path(manifest.digest).read_bytes()
            answer = self._ask("PUT", f"manifests/{which}", content=content, headers={"Content-Type": manifest.media_type})
            self._expect(answer, 201)

    def manifest(self, which: str | None = None) -> tuple[Descriptor, bytes]:
        """A manifest or index by tag or digest, that of the reference where left out: what it is, and its bytes, checked."""
        wanted = which or self._where.which
        with self._told(), self._fetched(f"manifests/{wanted}", {"Accept": _ACCEPT}) as answer:
            self._expect(answer, 200)
            content = b""
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                content += chunk
                if len(content) > DOCUMENT_MOST_BYTES:
                    raise self._too_large(wanted)
        found = Descriptor(answer.headers.get("Content-Type", "").partition(";")[0], digest_of(content), len(content))
        if wanted.startswith("sha256:") and found.digest != wanted:
            raise self._damaged(wanted)
        return found, content

    @contextmanager
    def reading(self, blob: Descriptor) -> Iterator[IO[bytes]]:
        """A blob as it comes. What the block leaves unread is read at its end, and then all of it is checked."""
        with self._told(), self._fetched(f"blobs/{blob.digest}", {}) as answer:
            self._expect(answer, 200)
            come = _Come(answer.iter_bytes(CHUNK_BYTES), blob.size_bytes)
            yield cast("IO[bytes]", io.BufferedReader(come, CHUNK_BYTES))
            while come.read(CHUNK_BYTES):
                pass
        if not come.is_whole or come.digest != blob.digest:
            raise self._damaged(blob.digest)

    def small(self, blob: Descriptor) -> bytes:
        """A small blob whole."""
        if blob.size_bytes > DOCUMENT_MOST_BYTES:
            raise self._too_large(blob.digest)
        with self.reading(blob) as file:
            return file.read()

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

    @contextmanager
    def _fetched(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """An answer whose body is still to come. A registry may send elsewhere for it: httpx gives no other host the login."""
        for last in (False, True):
            sent = {**headers, **({"Authorization": self._authorization} if self._authorization else {})}
            with self._http.stream("GET", self._base + path, headers=sent, follow_redirects=True) as answer:
                if answer.status_code != 401 or last:
                    yield answer
                    return
                self._authorization = self._authorized(answer)

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

    def _too_large(self, name: str) -> BadArtifact:
        return BadArtifact(f"{name[:19]} is too large for a document", where=str(self._where), remedy="push it again")

    def _damaged(self, digest: str) -> BadArtifact:
        return BadArtifact(
            f"{digest[:19]} is damaged in the registry: its digest differs", where=str(self._where), remedy="push it again"
        )

    def _expect(self, answer: httpx.Response, status: int) -> None:
        if answer.status_code == status:
            return
        if answer.status_code == 401:
            raise self._no_login()
        if answer.status_code == 403:
            raise Forbidden("the registry does not allow it", where=str(self._where), remedy="ask its operator for the right")
        if answer.status_code == 404:
            raise NotFound("the registry has none", where=str(self._where), remedy="check name and tag")
        method = answer.request.method
        sends = method not in ("GET", "HEAD")
        raise Unreachable(
            f"the registry answered {answer.status_code} to {method}{': what was sent is not tagged' if sends else ''}",
            where=str(self._where),
            remedy="push again: what is there already is not sent twice" if sends else "try again later",
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


class _Come(io.RawIOBase):
    """A body as it comes, hashed and counted; no more of it than was said."""

    def __init__(self, chunks: Iterator[bytes], size_bytes: int) -> None:
        self._chunks = chunks
        self._left_bytes = size_bytes
        self._rest = b""
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self._left_bytes >= 0 and (chunk := next(self._chunks, None)) is not None:
            self._left_bytes -= len(chunk)
            self._sha256.update(chunk)
            self._rest = chunk
        taken = min(len(buffer), len(self._rest))
        buffer[:taken], self._rest = self._rest[:taken], self._rest[taken:]
        return taken

    @property
    def is_whole(self) -> bool:
        return self._left_bytes == 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def _with_those_below(layout: Layout, one: Descriptor) -> list[Descriptor]:
    """A manifest alone; the manifests of an index, and then itself."""
    if one.media_type not in INDEX_TYPES:
        return [one]
    below = [Descriptor.read(each, str(layout.folder)) for each in layout.document(one).get("manifests") or []]
    return [*(manifest for each in below for manifest in _with_those_below(layout, each)), one]


def _blobs_of(layout: Layout, manifest: Descriptor) -> list[Descriptor]:
    document = layout.document(manifest)
    if manifest.media_type in INDEX_TYPES:
        return []
    return [Descriptor.read(each, str(layout.folder)) for each in (document.get("config"), *(document.get("layers") or []))]
