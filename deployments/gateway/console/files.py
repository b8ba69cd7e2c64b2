"""The console's own files: the page, its modules and styles, and what is vendored. Read once, from the package."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

TYPES = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
}
# Nothing from elsewhere, nothing inline, in nobody's frame.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # asked for each time, and answered by the tag alone
)


@dataclass(frozen=True, slots=True)
class ConsoleFile:
    """One file, as it is and compressed; `tag` changes with what is in it."""

    content_type: bytes
    tag: bytes
    plain: bytes
    zipped: bytes


def load_files() -> Mapping[str, ConsoleFile]:
    """All of them, by their path below `static`, such as `vendor/uPlot.iife.min.js`."""
    return dict(_below(files(__package__) / "static", ""))


def _below(folder: Traversable, path: str) -> list[tuple[str, ConsoleFile]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{path}{entry.name}/")
        elif (kind := TYPES.get(entry.name.rpartition(".")[2])) is not None:
            plain = entry.read_bytes()
            tag = b'"%b"' % hashlib.sha256(plain).hexdigest()[:16].encode()
            found.append((f"{path}{entry.name}", ConsoleFile(kind, tag, plain, gzip.compress(plain, mtime=0))))
    return found
