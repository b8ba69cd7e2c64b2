"""Ray's token: whoever has it runs code as this user, and without it Ray's processes take nothing from anybody.

A Ray of our own has one of its own, in a file that only its user may read, made anew for each home. A cluster that is joined has
one that the user brings, where Ray itself looks for it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import BadInput
from deployments.keys.secret_file import read_secret, write_once

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_BYTES = 32
_MOST_BYTES = 4096


def ensure_token(file: Path) -> None:
    """Makes the home's token where there is none. Raises Conflict where what is there is not this user's alone."""
    write_once(file, secrets.token_hex(_BYTES))
    read_token(file)


def read_token(file: Path) -> str:
    """Raises Conflict where others may read it or nothing is in it, FileNotFoundError where there is none."""
    remedy = "`headrace down`, remove the file, and `headrace up` makes another"
    return read_secret(file, what="Ray's token", remedy=remedy)


def own_environment(file: Path) -> dict[str, str | None]:
    """Ray's variables for the home's own Ray; None for one that must not be set. A run of an older version has no file."""
    if not file.exists():
        return {MODE: "disabled", TOKEN: None, TOKEN_PATH: None}
    return {MODE: "token", TOKEN: None, TOKEN_PATH: str(file)}


def joined_environment(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Ray's variables for a cluster that is joined: with a token where there is one, else as the user has it."""
    return {MODE: "token"} if joined_token(environment) is not None else {}


def require_token(environment: Mapping[str, str], address: str) -> None:
    """Raises BadInput where the user brings no token for the cluster at `address`.

    `RAY_AUTH_MODE=disabled` is no leave to go without: it may stand in a shell's profile.
    """
    if joined_token(environment) is None:
        raise BadInput(
            "there is no token for this cluster: whoever reaches one that takes none may run code on it",
            where=address,
            remedy=f"set {TOKEN_PATH} to the file with its token, or {TOKEN} to the token, or say --insecure",
        )


def joined_token(environment: Mapping[str, str]) -> str | None:
    """The token that the user brings, where Ray would find it. None where there is none, or it can't be read."""
    if token := environment.get(TOKEN, "").strip():
        return token
    home = environment.get("HOME")
    path = environment.get(TOKEN_PATH) or (f"{home}/.ray/auth_token" if home else None)
    if path is None:
        return None
    try:
        with Path(path).open("rb") as opened:
            return opened.read(_MOST_BYTES).decode("ascii", errors="replace").strip() or None
    except OSError:
        return None


def set_variables(variables: Mapping[str, str | None]) -> None:
    """Sets them in this process; call it before Ray is imported, which reads them then."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
