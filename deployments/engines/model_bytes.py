"""A model file in memory, and what its graph keeps beside it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster.errors import NoCapacity

Give = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """A model's bytes, verified as they are read: `read` gives all of them, `pour` hands them on block by block, which are of use
    once it has returned. Both raise BadArtifact and what else reading does.

    `beside` has the other files of the version by their paths, external data among them: no other may be read. Nothing of a
    `sealed` one may be written.
    """

    pour: Callable[[Give], None]
    read: Callable[[], bytes]
    where: str
    beside: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    sealed: bool = False


def told(model: Path | ModelBytes) -> str:
    """Where it is, in an error."""
    return model.where if isinstance(model, ModelBytes) else str(model)


def file_in_memory(pour: Callable[[Give], None]) -> int | None:
    """A file of what is poured that lies in memory alone, by its descriptor; `path_of` names it to who must have a path. None
    where the system has none. Nobody can change it; its memory is free once it is closed.

    Raises NoCapacity, and what `pour` raises.
    """
    if not hasattr(os, "memfd_create"):
        return None
    try:
        descriptor = os.memfd_create("model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:  # a container's rules may forbid it
        return None
    try:
        readable = Path(path_of(descriptor)).exists()  # not where /proc is not mounted
        if readable:
            pour(partial(_write_all, descriptor))
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(descriptor)
        raise
    if not readable:
        os.close(descriptor)
        return None
    return descriptor


def _write_all(descriptor: int, left: memoryview) -> None:
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError as error:
        raise NoCapacity(f"there is no memory for the model: {error}", remedy="give this process more") from error


def path_of(descriptor: int) -> str:
    """The path by which this process, and no other, finds its file."""
    return f"/proc/self/fd/{descriptor}"
