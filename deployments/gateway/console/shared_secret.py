"""What all processes of a cluster know and nobody outside: made from Ray's token, with which one can run code here anyway."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

_MOST_BYTES = 4096


def shared_secret(environment: Mapping[str, str]) -> bytes:
    """32 bytes; none where this Ray takes whoever comes, which needs no session to do harm."""
    token = ray_token(environment)
    return hashlib.sha256(f"headrace console {token}".encode()).digest() if token else b""


def ray_token(environment: Mapping[str, str]) -> str:
    """Ray's own token, where Ray itself looks for it; empty where there is none."""
    return environment.get("RAY_AUTH_TOKEN", "").strip() or _in_file(environment)


def _in_file(environment: Mapping[str, str]) -> str:
    home = environment.get("HOME")
    path = environment.get("RAY_AUTH_TOKEN_PATH") or (f"{home}/.ray/auth_token" if home else "")
    if not path:
        return ""
    try:
        with Path(path).open("rb") as opened:
            return opened.read(_MOST_BYTES).decode("ascii", errors="replace").strip()
    except OSError:
        return ""
