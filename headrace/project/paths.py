"""Paths in documents: relative ones are meant from the file's folder, wherever the command runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SECRETS = ("ca_file", "cert_file", "key_file", "key_password_file", "password_file")

# Which fields of each kind hold paths.
PATH_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Batch": (("input", "path"), ("output", "path"), ("output", "quarantine")),
    "Model": (
        ("payloads", "parquet", "path"),
        ("rollout", "preflight", "payloads"),
        *(("payloads", "kafka", "security", name) for name in _SECRETS),
    ),
    "Stream": (
        *(("security", name) for name in _SECRETS),
        *(("registry", name) for name in ("ca_file", "password_file")),
    ),
}

# And which name a key, which may be `file:PATH`.
KEY_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Batch": (("output", "encrypt"),),
    "Model": (("payloads", "parquet", "encrypt"),),
    "Stream": (("output", "encrypt", "key"),),
}


def resolve(text: str, folder: Path) -> str:
    """`text` as an absolute path below `folder`; absolute paths, URIs (`s3://...`) and `topic:NAME` stay as they are."""
    if not text or "://" in text or text.startswith("topic:"):
        return text
    return os.path.normpath(folder.absolute() / os.path.expanduser(text))


def resolve_key(text: str, folder: Path) -> str:
    """The same of a key's `file:PATH`; other names, and homes (which may differ by node), stay as they are."""
    kind, _, path = text.partition(":")
    return f"file:{resolve(path, folder)}" if kind == "file" and not path.startswith("~") else text


def resolve_fields(data: dict[str, Any], kind: str, folder: Path) -> dict[str, Any]:
    """A copy of the document `data` of that kind with its paths made absolute. What is missing or of another type is left to the
    check."""
    for field in PATH_FIELDS[kind]:
        data = _resolved(data, field, lambda text: resolve(text, folder))
    for field in KEY_FIELDS[kind]:
        data = _resolved(data, field, lambda text: resolve_key(text, folder))
    return data


def _resolved(value: Any, field: tuple[str, ...], how: Callable[[str], str]) -> Any:
    if not field:
        if isinstance(value, list):
            return [_resolved(item, (), how) for item in value]
        return how(value) if isinstance(value, str) else value
    first, rest = field[0], field[1:]
    if not isinstance(value, dict) or first not in value:
        return value
    return {**value, first: _resolved(value[first], rest, how)}
