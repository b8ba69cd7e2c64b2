"""Asks for an issuer's JWKS, by HTTP or in a file. It comes as bytes, unread."""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from cluster.access.issuers import Issuer, address_fault
from cluster.errors import Unreachable
from deployments.gateway.access.strict_json import object_of

MOST_BYTES = 1 << 20
FETCH_WITHIN_S = 10.0  # all of it, discovery included
REFRESH_S, REFRESH_LEAST_S, REFRESH_MOST_S = 600.0, 60.0, 3600.0
FILE_LOOK_S = 5.0
_DISCOVERY = "/.well-known/openid-configuration"
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """A JWKS as it came, and in how many seconds to ask again."""

    data: bytes
    again_s: float


async def fetch_keys(issuer: Issuer) -> FetchedKeys:
    """Raises Unreachable where it does not come whole and in time, is over a MiB, or where discovery tells of another issuer."""
    if issuer.keys_file is not None:
        return await asyncio.to_thread(_read, Path(issuer.keys_file))
    try:
        async with asyncio.timeout(FETCH_WITHIN_S):
            return await _ask(await _published_at(issuer), issuer.asks_loopback)
    except TimeoutError:
        raise _unreachable(issuer.keys or issuer.issuer, f"no whole answer within {FETCH_WITHIN_S:g} s") from None


def _read(path: Path) -> FetchedKeys:
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise Unreachable("is no file", where=str(path), remedy="put the JWKS there, readable")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unreachable(f"can't be read: {error.strerror}", where=str(path), remedy="put the JWKS there, readable") from error
    if len(data) > MOST_BYTES:
        raise Unreachable("it is over 1 MiB", where=str(path), remedy="put a JWKS there")
    return FetchedKeys(data, FILE_LOOK_S)


async def _published_at(issuer: Issuer) -> str:
    """Where the JWKS is."""
    if not issuer.discover:
        return issuer.keys
    asked = issuer.issuer.rstrip("/") + _DISCOVERY
    answer = await _ask(asked, issuer.asks_loopback)
    try:
        told = object_of(answer.data)
    except ValueError as error:
        raise _unreachable(asked, f"its answer is no discovery document: {error}") from None
    if told.get("issuer") != issuer.issuer:
        raise _unreachable(asked, "it tells of another issuer than `issuer`")
    url = told.get("jwks_uri")
    if not isinstance(url, str):
        raise _unreachable(asked, "it names no `jwks_uri`")
    if fault := address_fault(url, loopback=issuer.asks_loopback):
        raise _unreachable(asked, f"its `jwks_uri` {fault}")
    return url


@functools.cache
def _trusted() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


async def _ask(url: str, loopback: bool) -> FetchedKeys:
    context = await asyncio.to_thread(_trust, url)  # reading the certificates takes some 20 ms
    import httpx

    try:
        async with (
            # Whoever is asked on this machine is asked without a proxy. The limit is of each step; of all, `fetch_keys` has one.
            httpx.AsyncClient(
                verify=context, trust_env=not loopback, timeout=2 * FETCH_WITHIN_S, follow_redirects=False
            ) as client,
            client.stream("GET", url, headers={"accept": "application/json", "accept-encoding": "identity"}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                what = f"it answers {answer.status_code}" + (", and no redirect is followed" if answer.is_redirect else "")
                raise _unreachable(url, what)
            if answer.headers.get("content-encoding", "identity") != "identity":  # a small body may unpack to a huge one
                raise _unreachable(url, "its answer is packed, which was not asked for")
            data = bytearray()
            async for piece in answer.aiter_raw():
                data += piece
                if len(data) > MOST_BYTES:
                    raise _unreachable(url, "its answer is over 1 MiB")
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError) as error:
        raise _unreachable(url, f"{type(error).__name__}: {error}") from error
    except (ValueError, ImportError):  # whose text may hold a password
        raise _unreachable("HTTP_PROXY, HTTPS_PROXY, ALL_PROXY", "the environment names a proxy that can't be used") from None
    return FetchedKeys(bytes(data), _again_s(answer.headers.get("cache-control", "")))


def _trust(url: str) -> ssl.SSLContext:
    try:
        return _trusted()
    except OSError as error:
        raise _unreachable(url, f"the certificates that this node trusts can't be read: {error}") from error


def _again_s(cache_control: str) -> float:
    told = _MAX_AGE.search(cache_control)
    return min(max(float(told[1]), REFRESH_LEAST_S), REFRESH_MOST_S) if told else REFRESH_S


def _unreachable(where: str, what: str) -> Unreachable:
    return Unreachable(what, where=where, remedy="make it reachable from each node with a gateway, or correct the issuer's entry")
