"""Asks Ray's dashboard, with the token that it wants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from headrace.local.home import Home
from headrace.local.ray.token import joined_token, read_token
from headrace.transport import verify_for

ASK_S = 5.0


class DashboardAsker:
    """Of one run: with the home's own token, or with the one that the user has for the cluster that it joined."""

    def __init__(self, url: str, home: Home, *, owns_ray: bool) -> None:
        """Raises Conflict where the home's token is not this user's alone."""
        self._url = url
        try:
            token = read_token(home.ray_token) if owns_ray else joined_token(os.environ)
        except FileNotFoundError:  # a run of a version that had none
            token = None
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.token_refused = False

    def get(self, path: str, **params: str) -> Any:
        """What it says, as JSON. Raises httpx.HTTPError or ValueError: it may be off; what is served does not depend on it.

        `token_refused` tells after each call whether it wanted another token.
        """
        url, verify = f"{self._url}{path}", verify_for(self._url)
        answer = httpx.get(url, params=params, headers=self._headers, timeout=ASK_S, trust_env=False, verify=verify)
        self.token_refused = answer.status_code in (401, 403)
        return answer.raise_for_status().json()

    @contextmanager
    def stream(self, path: str, *, read_s: float | None, **params: str) -> Iterator[httpx.Response]:
        """An answer that is read as it comes; `read_s` bounds how long nothing may come. Raises httpx.HTTPError."""
        timeout = httpx.Timeout(ASK_S, read=read_s)
        url = f"{self._url}{path}"
        with httpx.stream("GET", url, params=params, headers=self._headers, timeout=timeout, trust_env=False) as answer:
            yield answer.raise_for_status()
