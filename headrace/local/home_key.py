"""The key of a home: whoever may read its file may do everything with what `headrace up` has started there."""

from __future__ import annotations

from pathlib import Path

from cluster.access.keys import digest_of, key_id, new_key
from cluster.commands.keys import AdmitHome
from cluster.errors import Conflict
from deployments.keys.secret_file import read_secret, write_once
from headrace.local.home import Home

WHAT, REMEDY = "the home's key", "remove the file, and `headrace up` makes another"


def ensure_home_key(home: Home) -> AdmitHome:
    """Makes the key where there is none; what the controller is to know of it. Raises Conflict where it is not this user's alone,
    or no key."""
    home.make()
    write_once(home.key, new_key().text)
    text = read_secret(home.key, what=WHAT, remedy=REMEDY)
    name = key_id(text)
    if name is None:
        raise Conflict("this is no key", where=str(home.key), remedy=REMEDY)
    return AdmitHome(id=name, digest=digest_of(text), actor="headrace up")


def home_key(home: Home) -> str | None:
    """The key; None where there is none yet. Raises Conflict where it is not this user's alone."""
    try:
        return read_secret(home.key, what=WHAT, remedy=REMEDY)
    except FileNotFoundError:
        return None


def key_in(file: Path) -> str:
    """What somebody keeps in a file of his own (HEADRACE_TOKEN_FILE). Raises Conflict likewise, FileNotFoundError."""
    return read_secret(file, what="the key or token", remedy=f"chmod 600 {file}, and make it your own")
