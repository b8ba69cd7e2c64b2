"""Who is at a browser: by the session in his cookie, else by what he brings with each request; and how he comes by a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.access.callers import CLUSTER, Caller
from cluster.access.keys import PREFIX, StoredKey, key_id
from cluster.commands.keys import LINK
from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, Forbidden, Unauthenticated
from deployments.gateway.access.credential import Credential, address_in, in_headers, secret_of
from deployments.gateway.access.guard import Guard
from deployments.gateway.console.sessions import CODE_S, TokenPurpose, lasting_s, sign, verify
from deployments.gateway.http.asgi import Request

KNOWN_MOST = 10_000


class ConsoleSessions:
    """Used on one event loop. `secret` is what gateways share; that a code of a link is good once, the controller sees to."""

    def __init__(self, guard: Guard, control: ControlPlane, secret: bytes, clock: Callable[[], float]) -> None:
        self._guard, self._control, self._secret, self._clock = guard, control, secret, clock
        self._known: dict[str, tuple[object, Caller]] = {}

    def who(self, request: Request) -> Caller:
        """Raises Unauthenticated, OverQuota."""
        text = session_in(request)
        caller = self._of_session(text) if text else None
        if caller is not None:
            return caller
        credential, address = self._brought(request)
        return self._guard.admitted(credential, address)

    def commanding(self, request: Request) -> Caller:
        """As `who`, with the way that he gives a command by, for the audit."""
        return self.who(request).by("console", self._brought(request)[1])

    async def begin(self, request: Request, asked: dict[str, Any]) -> tuple[bytes, float]:
        """A cookie for who has that `key`, or that `code` of a link, and when it ends (Unix). Raises BadInput, Unauthenticated,
        OverQuota, and Unreachable for a code while the controller is away."""
        if "code" in asked:
            key = await self._of_code(str(asked["code"]))
        else:
            key = self._of_key(request, str(asked.get("key", "")).strip())
        now_s = self._clock()
        token, until_s = sign(key, TokenPurpose.SESSION, self._secret, now_s), lasting_s(key, TokenPurpose.SESSION, now_s)
        return cookie(request, token, max(1, int(until_s - now_s))), until_s

    def code(self, request: Request) -> str:
        """What opens the console, once, as whoever has the key that came with the request. Raises Unauthenticated, Forbidden."""
        credential, address = self._brought(request)
        self._guard.admitted(credential, address)
        secret = secret_of(credential.authorization) or ""
        if not secret.startswith(PREFIX):
            raise Forbidden("only who has a key gets a link", where="console", remedy="send `Authorization: Bearer KEY`")
        return sign(self._stored(key_id(secret)), TokenPurpose.CODE, self._secret, self._clock())

    def _brought(self, request: Request) -> tuple[Credential, bytes]:
        headers, behind_door = request.headers, self._guard.behind_door
        return in_headers(headers, behind_door=behind_door), address_in(headers, behind_door=behind_door)

    def _of_session(self, text: str) -> Caller | None:
        policy = self._guard.policy
        token = verify(text, TokenPurpose.SESSION, policy.keys, self._secret, self._clock())
        if token is None:
            self._known.pop(text, None)
            return None
        known = self._known.get(text)
        if known is None or known[0] is not policy:
            if len(self._known) >= KNOWN_MOST:
                self._known.clear()
            known = self._known[text] = policy, policy.of_key(policy.keys[token.key_id])
        return known[1]

    def _of_key(self, request: Request, text: str) -> StoredKey:
        if not text.startswith(PREFIX) or not text.isascii() or " " in text:
            raise BadInput("this is no key: one begins with hr_", where="key", remedy="`headrace key create` makes one")
        self._guard.admitted(Credential(b"Bearer " + text.encode()), self._brought(request)[1])
        return self._stored(key_id(text))

    async def _of_code(self, text: str) -> StoredKey:
        token = verify(text, TokenPurpose.CODE, self._guard.policy.keys, self._secret, self._clock())
        if token is None:
            remedy = "run `headrace up` again, which prints a new one, or log in with a key"
            raise Unauthenticated("this link was used, or its ten minutes are over", where="link", remedy=remedy)
        key = self._stored(token.key_id)
        who = self._guard.policy.of_key(key).name
        await self._control.call(LINK.name, {"id": key.id, "code": token.nonce, "lasts_s": CODE_S, "actor": who}, CLUSTER)
        return key

    def _stored(self, name: str | None) -> StoredKey:
        key = self._guard.policy.keys.get(name or "")
        if key is None:
            raise Unauthenticated("this key has ended", where="key", remedy="ask for another one")
        return key


def session_in(request: Request) -> str:
    """The token in the console's cookie; "" where there is none."""
    wanted = _cookie_name(request)
    for part in (request.header(b"cookie") or "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == wanted:
            return value
    return ""


def cookie(request: Request, token: str, lasts_s: int) -> bytes:
    """The header that makes a browser keep the token so long; 0: that it forgets it."""
    secure = "; Secure" if request.header(b"x-forwarded-proto") == "https" else ""
    return f"{_cookie_name(request)}={token}; Path=/console; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}".encode()


def _cookie_name(request: Request) -> str:
    """Cookies know no ports: another Headrace on this machine has another one."""
    _, _, port = (request.header(b"host") or "").rpartition(":")
    return f"headrace_console_{port if port.isdecimal() else ''}"
