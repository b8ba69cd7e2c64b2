"""The folder in which every process of the tests' Ray looks for keys, of which there are none until a test puts some in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.keys.ring import VARIABLE


@contextmanager
def node_keys() -> Iterator[Path]:
    """It, closed to other users, and gone again at the end, whatever becomes of the test."""
    folder = Path(os.environ[VARIABLE].removeprefix("file:"))
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
