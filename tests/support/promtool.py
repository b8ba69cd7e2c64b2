"""Programs of Prometheus that proofs need: `make tools` installs them."""

from __future__ import annotations

import os
import shutil

import pytest


def needed(program: str) -> str:
    """Its path. Without it the test is skipped; where CI runs, it fails: there `make tools` has been."""
    found = shutil.which(program)
    if found is None and os.environ.get("HEADRACE_CI"):
        pytest.fail(f"{program} is not installed: `make tools`")
    if found is None:
        pytest.skip(f"needs {program}: `make tools`")
    return found
