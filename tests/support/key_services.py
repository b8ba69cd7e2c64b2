"""Small servers that speak the APIs of Vault's transit engine and of AWS KMS, as far as keys are wrapped by them."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.small"  # noqa: S105 (of a server that lives for a test)
_NONCE = 12


class Refusal(Exception):
    """Answered with a status and words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class SmallKeyService(ThreadingHTTPServer):
    """Keys by name, which never leave it. `away`: every call is answered with 503; `asked` are the bodies that came."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.keys = {"prod": AESGCM(AESGCM.generate_key(256)), "other": AESGCM(AESGCM.generate_key(256))}
        self.away = False
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def serving(self) -> Iterator[SmallKeyService]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()

    def seal(self, name: str, plain: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self.keys[name].encrypt(nonce, plain, context)

    def open(self, name: str, sealed: bytes, context: bytes) -> bytes:
        return self.keys[name].decrypt(sealed[:_NONCE], sealed[_NONCE:], context)


class _Handler(BaseHTTPRequestHandler):
    server: SmallKeyService

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        self.server.asked.append(body)
        try:
            status, answer = 200, self.answer(body)
        except Refusal as refusal:
            status, answer = refusal.status, self.refused(refusal)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST  # noqa: N815 (http.server's name)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def refused(self, refusal: Refusal) -> dict[str, Any]:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


class _Vault(_Handler):
    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.server.away:
            raise Refusal(503, "Vault is sealed")
        if self.headers["x-vault-token"] != TOKEN:
            raise Refusal(403, "permission denied")
        found = re.fullmatch(r"/v1/transit/(encrypt|decrypt)/(\w+)", self.path)
        if found is None:
            raise Refusal(404, "no handler for route")
        act, name = found.groups()
        if name not in self.server.keys:
            raise Refusal(400, "encryption key not found")
        context = base64.b64decode(body.get("associated_data", ""))
        if act == "encrypt":
            sealed = self.server.seal(name, base64.b64decode(body["plaintext"]), context)
            return {"data": {"ciphertext": f"vault:v1:{base64.b64encode(sealed).decode()}", "key_version": 1}}
        prefix, colon, text = body["ciphertext"].rpartition(":")
        try:
            if prefix != "vault:v1" or not colon:
                raise ValueError(prefix)
            plain = self.server.open(name, base64.b64decode(text, validate=True), context)
        except (ValueError, InvalidTag):
            raise Refusal(400, "cipher: message authentication failed") from None
        return {"data": {"plaintext": base64.b64encode(plain).decode()}}

    def refused(self, refusal: Refusal) -> dict[str, Any]:
        return {"errors": [refusal.words]}


class _Kms(_Handler):
    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.server.away:
            raise Refusal(503, "KMSInternalException")
        if not self.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential=small/"):
            raise Refusal(400, "UnrecognizedClientException")
        name, act = body["KeyId"].removeprefix("alias/"), self.headers["x-amz-target"]
        if name not in self.server.keys:
            raise Refusal(400, "NotFoundException")
        context = json.dumps(body.get("EncryptionContext", {}), sort_keys=True).encode()
        if act == "TrentService.Encrypt":
            sealed = name.encode() + b"|" + self.server.seal(name, base64.b64decode(body["Plaintext"]), context)
            return {"CiphertextBlob": base64.b64encode(sealed).decode(), "KeyId": body["KeyId"]}
        whose, _, sealed = base64.b64decode(body["CiphertextBlob"]).partition(b"|")
        if whose.decode(errors="replace") in self.server.keys.keys() - {name}:
            raise Refusal(400, "IncorrectKeyException")
        try:
            plain = self.server.open(name, sealed, context)
        except (ValueError, InvalidTag):
            raise Refusal(400, "InvalidCiphertextException") from None
        return {"Plaintext": base64.b64encode(plain).decode(), "KeyId": body["KeyId"]}

    def refused(self, refusal: Refusal) -> dict[str, Any]:
        return {"__type": refusal.words, "message": "no"}


def small_vault() -> SmallKeyService:
    """Vault's transit engine, mounted at `transit`, with the keys prod and other."""
    return SmallKeyService(_Vault)


def small_kms() -> SmallKeyService:
    """AWS KMS with the keys alias/prod and alias/other."""
    return SmallKeyService(_Kms)
