"""`python -m examples.access.issuer`: a small OpenID Connect issuer on this machine, in place of a company's own.

It publishes its keys as each does, and gives a token to whoever asks for one (a real one asks for a password first):
`curl http://127.0.0.1:8200/token/ann`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

AUDIENCE = "headrace"
GROUPS = {"ann": ["staff", "ml-ops"], "bob": ["staff"]}
LASTS_S = 600


class TokenIssuer:
    """Signs with a key of its own, made at its start. `url` is its `iss`."""

    def __init__(self, port: int = 0) -> None:
        """On loopback; 0: a free port."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def token(self, person: str) -> str:
        """Who it is for, the groups, and for how long, signed."""
        now_s = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": person, "groups": GROUPS[person], "iat": now_s, "exp": now_s + LASTS_S}
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": "1"})

    def _answer(self, path: str) -> str | None:
        """The body for a path; None where there is nothing."""
        person = path.removeprefix("/token/")
        if path == "/.well-known/openid-configuration":
            return json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/jwks.json"})
        if path == "/jwks.json":
            public = jwt.get_algorithm_by_name("ES256").to_jwk(self._key.public_key(), as_dict=True)
            return json.dumps({"keys": [{**public, "kid": "1", "use": "sig"}]})
        return self.token(person) if person != path and person in GROUPS else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = issuer._answer(self.path)
                body = (found or "").encode()
                self.send_response(404 if found is None else 200)
                self.send_header("content-type", "text/plain" if self.path.startswith("/token/") else "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        return Handler


@contextmanager
def issuing() -> Iterator[TokenIssuer]:
    """One on a free port while the block runs."""
    issuer = TokenIssuer()
    thread = threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.server.shutdown()
        issuer.server.server_close()
        thread.join()


if __name__ == "__main__":
    alone = TokenIssuer(8200)
    print(f"{alone.url}/token/ann, {alone.url}/token/bob; Ctrl-C ends it", flush=True)
    try:
        alone.server.serve_forever()
    except KeyboardInterrupt:
        print("ended")
