"""A model file in memory, and what its graph keeps beside it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import NoCapacity


class ModelBytes:
    """The very bytes that were verified."""

    def __init__(self, content: bytes, where: str, beside: Mapping[str, bytes], file: Path | None) -> None:
        """`beside` has the other files of the version by their paths, external data among them; `file` is where the model lies on
        this machine, None where it is sealed: nothing of it may be written or read there."""
        self._content: bytes | None = content
        self.where = where
        self.beside = beside
        self.file = file

    def take(self) -> bytes:
        """The model's bytes, once: who has them decides when their memory is free."""
        content, self._content = self._content, None
        if content is None:
            raise ValueError("the bytes were taken before")
        return content


def told(model: Path | ModelBytes) -> str:
    """Where it is, in an error."""
    return model.where if isinstance(model, ModelBytes) else str(model)


def file_in_memory(content: bytes) -> int | None:
    """A file of these bytes that lies in memory alone, by its descriptor; `path_of` names it to who must have a path. None where
    the system has none. Nobody can change it; its memory is free once it is closed. Raises NoCapacity."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        descriptor = os.memfd_create("model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:  # a container's rules may forbid it
        return None
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except OSError as error:
        os.close(descriptor)
        raise NoCapacity(f"there is no memory for the model: {error}", remedy="give this process more") from error
    if not Path(path_of(descriptor)).exists():  # /proc is not mounted
        os.close(descriptor)
        return None
    return descriptor


def path_of(descriptor: int) -> str:
    """The path by which this process, and no other, finds its file."""
    return f"/proc/self/fd/{descriptor}"
