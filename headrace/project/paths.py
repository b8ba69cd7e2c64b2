"""Paths in documents: relative ones are meant from the file's folder, wherever the command runs."""

from __future__ import annotations

import os
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


def resolve(text: str, folder: Path) -> str:
    """`text` as an absolute path below `folder`; absolute paths, URIs (`s3://...`) and `topic:NAME` stay as they are."""
    if not text or "://" in text or text.startswith("topic:"):
        return text
    return os.path.normpath(folder.absolute() / os.path.expanduser(text))


def resolve_fields(data: dict[str, Any], fields: tuple[tuple[str, ...], ...], folder: Path) -> dict[str, Any]:
    """A copy of `data` with the path fields made absolute. What is missing or of another type is left to the check."""
    for field in fields:
        data = _resolved(data, field, folder)
    return data


def _resolved(value: Any, field: tuple[str, ...], folder: Path) -> Any:
    if not field:
        if isinstance(value, list):
            return [_resolved(item, (), folder) for item in value]
        return resolve(value, folder) if isinstance(value, str) else value
    first, rest = field[0], field[1:]
    if not isinstance(value, dict) or first not in value:
        return value
    return {**value, first: _resolved(value[first], rest, folder)}
