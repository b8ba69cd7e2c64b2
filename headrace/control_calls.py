"""How commands reach the controller through the gateway: found, asked with patience, and answered in our own errors."""

from __future__ import annotations

import getpass
import os
import socket
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from cluster import errors
from cluster.commands.command import Command, CommandEntry, Message
from cluster.error_wire import from_wire
from cluster.findings import first_finding
from deployments.gateway.door.configuration import NOT_DELIVERED
from headrace.local.home import Home, Settings, read_settings
from headrace.local.home_key import home_key, key_in
from headrace.local.run_state import load_run
from headrace.patience import Patience, Waiting
from headrace.transport import remedy_for, transport_to

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

AWAY = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})
NO_ANSWER = ("json_invalid", "model_type")  # in pydantic's words: not of any gateway


class ControlCalls:
    """Calls of the control API, `POST /control/{command}`. Blocks; not for several threads at once.

    Every method raises the HeadraceError that the controller raised, of the same class, or Unreachable where nothing
    answers within `timeout_s`. With `patience`, a gateway that is away is asked again for so long: by what only looks always, by
    what changes something only where it certainly was not delivered. `actor` is who asks, for the audit, where a request does not
    say. `token` is a key, or an issuer's token, that it is known by; BadInput where it can be neither.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        patience: Patience | None = None,
        actor: str = "",
        token: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s, self._patience, self._actor = timeout_s, patience, actor
        # trust_env off: a proxy set for the web must not swallow calls to a local gateway.
        self._http = httpx.Client(base_url=self.base_url, timeout=timeout_s, transport=transport, trust_env=False)
        if token is not None:
            if not token.isascii() or not token.isprintable() or " " in token:  # httpx would tell all of it in its own refusal
                what = "it has blanks, or characters that no key or token has"
                raise errors.BadInput(what, where="the key or token", remedy="set HEADRACE_TOKEN to it alone, as it was shown")
            self._http.headers["authorization"] = f"Bearer {token}"

    @classmethod
    def from_environment(cls, settings: Settings | None = None, *, patient: bool = True) -> Self:
        """Finds the gateway: HEADRACE_URL, else what `headrace up` wrote in run.json. Raises Unreachable where neither says.

        It is known by HEADRACE_TOKEN, or by what is in HEADRACE_TOKEN_FILE; else by the home's key, where the gateway is the
        home's.

        It has patience, as long as what `headrace up` started still runs, unless told to have none.
        """
        known = settings or read_settings()
        run = load_run(known.home) if not known.url or known.home.run_file.exists() else None
        own = run.addresses.http if run is not None and run.holds_its_ports() else None
        if known.url:
            token = token_of(known, own=known.url.rstrip("/") == own)
            secured = transport_to(known.url, known)
            return cls(known.url, transport=secured, patience=Patience() if patient else None, actor=current_user(), token=token)
        if run is None or run.addresses.http is None:
            raise errors.Unreachable(
                "nothing is running",
                where=str(known.home.root),
                remedy="start it with `headrace up`, or set HEADRACE_URL to a gateway's address",
            )
        url, patience = run.addresses.http, Patience(partial(may_answer, known.home)) if patient else None
        secured, token = transport_to(url, known), token_of(known, own=own is not None)
        return cls(url, transport=secured, patience=patience, actor=current_user(), token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Safe to repeat."""
        self._http.close()

    def call(self, entry: CommandEntry[Q, A], request: Q) -> A:
        """Runs one of `cluster.commands.registry.COMMANDS` and returns its answer."""
        command, looks = entry.name, entry.looks
        waiting = Waiting(self._patience, self.base_url, self._timeout_s)
        body = request.model_dump(mode="json")
        if isinstance(request, Command):
            body["actor"] = request.actor or self._actor
        while True:
            left_s = max(waiting.left_s, 0.1)
            # What changes something is not cut short because the gateway was away before it.
            limit = httpx.Timeout(left_s if looks else self._timeout_s, connect=left_s)
            try:
                response = self._http.post(f"/control/{command}", json=body, timeout=limit)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise errors.BadInput(
                    str(error), where=self.base_url, remedy="HEADRACE_URL is like http://127.0.0.1:8000"
                ) from error
            except httpx.TransportError as error:
                lost = _is_nowhere(error) or remedy_for(error) is not None
                again = not lost and (looks or isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))
                if not (again and waiting.goes_on(str(error))):
                    raise self._unanswered(command, error) from error
            else:
                away = response.status_code in AWAY and (looks or NOT_DELIVERED in response.headers)
                if not (away and waiting.goes_on(f"HTTP {response.status_code}")):
                    return self._read(command, response, entry.answer)

    def _unanswered(self, command: str, error: httpx.TransportError) -> errors.Unreachable:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return errors.Unreachable(
                f"no answer to {command} in time", where=self.base_url, remedy="see `headrace status`, then try again"
            )
        return errors.Unreachable(
            f"the gateway does not answer: {error}",
            where=self.base_url,
            remedy=remedy_for(error) or "start it with `headrace up`",
        )

    def _read(self, command: str, response: httpx.Response, answer: type[A]) -> A:
        where = f"{self.base_url}/control/{command}"
        if response.is_success:
            try:
                return answer.model_validate_json(response.content)  # a thousand models are megabytes: parsed once, not twice
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                if first["loc"] or first["type"] not in NO_ANSWER:
                    what = f"the answer is not what this version of headrace knows: {first_finding(error).words}"
                    raise errors.HeadraceError(
                        what, where=where, remedy="run the same version of headrace here and there"
                    ) from error
        try:
            data = response.json()
        except ValueError:
            data = None
        raise _error_in(data) or _error_of_status(response.status_code, where)


def token_of(settings: Settings, *, own: bool) -> str | None:
    """What to call a gateway with: what the environment says, else the home's key for its `own` gateway, and for no other. Raises
    Conflict where others could read it, BadInput where the file that was named is not there."""
    if settings.token is not None:
        return settings.token
    if settings.token_file is not None:
        try:
            return key_in(settings.token_file)
        except OSError as error:
            what = f"it can't be read: {error.strerror}"
            raise errors.BadInput(what, where="HEADRACE_TOKEN_FILE", remedy="name a file with a key, or none") from error
    return home_key(settings.home) if own else None


def may_answer(home: Home) -> bool:
    """Whether what `headrace up` started may still come to answer: its Ray runs, or is not ours to know of."""
    run = load_run(home)
    return run is not None and run.ray_lives()


def _is_nowhere(error: BaseException) -> bool:
    """Whether the address has no machine behind it, which no waiting mends."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, socket.gaierror):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _error_in(data: Any) -> errors.HeadraceError | None:
    """The error that the body holds, of its own class; None where it holds none."""
    return from_wire(data.get("error")) if isinstance(data, dict) else None


def _error_of_status(status: int, where: str) -> errors.HeadraceError:
    """For an answer that no gateway of ours has written, such as one of a proxy in between."""
    if status == httpx.codes.NOT_FOUND:
        return errors.Unreachable("this is not a headrace gateway", where=where, remedy="check HEADRACE_URL and the port")
    if status in AWAY:
        return errors.Unreachable(f"the gateway answers HTTP {status}", where=where, remedy="it may be starting: try again")
    return errors.HeadraceError(f"HTTP {status} without a reason", where=where, remedy="look in the gateway's log")


def current_user() -> str:
    """Who runs this process, for the audit. In a container that may be a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return f"user {os.getuid()}"
