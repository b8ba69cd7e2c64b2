"""How keys are named: `file:PATH`, `env:VARIABLE`, `vault:MOUNT/NAME`, `aws-kms:KEY`, or a name in the folder of keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import BadInput, NotFound
from deployments.keys.port import KeyHolder
from deployments.keys.secret_file import read_secret

PRIVATE, PUBLIC = ".key", ".pub"
PEM = "-----BEGIN "
KINDS = "file:PATH, env:VARIABLE, vault:MOUNT/NAME, aws-kms:KEY, or the name of one in HEADRACE_HOME/keys"
_MOST_BYTES = 4096


def holder_of(
    reference: str,
    *,
    folder: Path | None = None,
    base: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> KeyHolder:
    """The key of that name; one without a kind is NAME.pub or NAME.key in `folder`. Paths are relative to `base`, this process's
    folder where left out. Contacts no service.

    Raises NotFound where there is none, BadInput where it is no key, Conflict where others may read a private one.
    """
    _refuse_key(reference)
    kind, colon, rest = reference.partition(":")
    if not colon:
        return _in_folder(reference, folder)
    if kind == "file":
        return key_in_file((base or Path()) / path_in(reference))
    if kind == "env":
        return _in_variable(rest, os.environ if environment is None else environment)
    if kind in ("vault", "aws-kms"):
        return _in_service(kind, rest, environment)
    raise BadInput("names no kind of key that is known", where=reference, remedy=f"name {KINDS}")


def _refuse_key(reference: str) -> None:
    """Raises BadInput for a secret that was put where its name should be: not told again, in a log for one."""
    if PEM in reference:
        raise BadInput("a key itself stands where one should be named", where="a key's name", remedy=f"name {KINDS}")


def path_in(reference: str) -> Path:
    """The path of `file:PATH`. Raises BadInput where it begins with the home of nobody."""
    _refuse_key(reference)
    try:
        return Path(reference.removeprefix("file:")).expanduser()
    except RuntimeError as error:
        raise BadInput("begins with the home of a user who is not here", where=reference, remedy="write the path") from error


def key_in_file(file: Path) -> KeyHolder:
    """The key of a PEM file; a private one must be its user's alone. Raises as `holder_of` does."""
    remedy = f"chmod 600 {file}, and make it your own; who has read it may open what is sealed for it"
    try:
        with file.open("rb") as opened:
            text = opened.read(_MOST_BYTES).decode("ascii", errors="replace")
        if "PRIVATE" in text:
            text = read_secret(file, what="a private key", remedy=remedy)
    except OSError as error:
        raise NotFound(f"there is no key: {error.strerror}", where=str(file), remedy="name the file of one") from error
    return _in_pem(text, str(file))


def _in_pem(text: str, where: str) -> KeyHolder:
    from deployments.keys.hpke_key import HpkeKey  # cryptography, which whoever opens no key goes without

    return HpkeKey.of_pem(text, where)


def _in_service(kind: str, place: str, environment: Mapping[str, str] | None) -> KeyHolder:
    extra = "vault" if kind == "vault" else "aws"
    try:
        if kind == "vault":
            from deployments.keys.vault_key import vault_key

            return vault_key(place, environment)
        from deployments.keys.aws_kms_key import AwsKmsKey

        return AwsKmsKey(place)
    except ModuleNotFoundError as error:
        remedy = f"pip install 'headrace[{extra}]' there"
        raise NotFound(f"it takes {error.name}, which is not installed", where=f"{kind}:{place}", remedy=remedy) from error


def _in_variable(name: str, environment: Mapping[str, str]) -> KeyHolder:
    text = environment.get(name, "")
    if not text.strip():
        raise NotFound("there is no key: the variable is not set", where=f"env:{name}", remedy="set it to a key in PEM")
    return _in_pem(text.replace("\\n", "\n"), f"env:{name}")  # as files of variables write them, on one line


def _in_folder(name: str, folder: Path | None) -> KeyHolder:
    if os.sep in name:
        raise BadInput("is a path", where=name, remedy=f"write file:{name}")
    found = [] if folder is None else [folder / f"{name}{ending}" for ending in (PUBLIC, PRIVATE)]
    file = next((one for one in found if one.exists()), None)
    if file is None:
        where = "no folder of keys by HEADRACE_KEYS or HEADRACE_HOME" if folder is None else f"not in {folder.absolute()}"
        remedy = f"copy {name}{PUBLIC} there, or make a key with `headrace sealing new {name}`; or name {KINDS}"
        raise NotFound(f"there is no key of that name: {where}", where=name, remedy=remedy)
    return key_in_file(file)
