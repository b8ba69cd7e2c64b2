"""What an image stands on: an image that is given, or a small Debian made by mmdebstrap."""

from __future__ import annotations

import gzip
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from cluster.errors import BadArtifact, BadInput, NoCapacity, Unreachable
from deployments.images.bill import DebianPackage, debian_packages
from deployments.oci.descriptors import Descriptor
from deployments.oci.image_files import TakenImage, add_image, take_image
from deployments.oci.layers import Layer, press_tar
from deployments.oci.layout import DOCUMENT_MOST_BYTES, Layout
from deployments.oci.references import LayoutTag

SUITE = "bookworm"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "ca-certificates", "libgomp1", "tini")
BASE_TAG = "headrace-base"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PYTHON = re.compile(r"(?:\./)?(usr/(?:local/)?bin/python3\.(\d+))")
_TINI = re.compile(r"(?:\./)?(usr/(?:local/)?s?bin/tini)")
_STATUS = re.compile(r"(?:\./)?var/lib/dpkg/status")
_COPYRIGHT = re.compile(r"(?:\./)?usr/share/doc/([^/]+)/copyright")
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
_TAIL_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Base:
    """What the other layers go on. `python` is its interpreter's path and `python_minor` N of 3.N; `init` is tini's path;
    `packages` are Debian's, none where it is no Debian."""

    layers: tuple[Layer, ...]
    architecture: str
    digest: str
    environment: Mapping[str, str]
    python: str
    python_minor: int
    init: str | None
    packages: tuple[DebianPackage, ...] = ()


def here() -> str:
    """This machine's architecture as OCI names it."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def read_base(source: LayoutTag, target: Layout) -> Base:
    """Takes a base's layers over into the layout, checked. Raises NotFound, BadArtifact, BadInput."""
    taken = take_image(source, target, here())
    return _looked_at(target, taken, str(source))


def _looked_at(layout: Layout, taken: TakenImage, where: str) -> Base:
    pythons: dict[str, int] = {}
    init: str | None = None
    status, copyrights = b"", dict[str, bytes]()
    for layer in taken.layers:
        for path, content in _files(layout.path(layer.descriptor.digest)):
            if found := _PYTHON.fullmatch(path):
                pythons[found[1]] = int(found[2])
            elif found := _TINI.fullmatch(path):
                init = found[1]
            elif found := _COPYRIGHT.fullmatch(path):
                copyrights[found[1]] = content
            elif _STATUS.fullmatch(path):
                status = content
    usable = {path: minor for path, minor in pythons.items() if minor >= 11}
    if not usable:
        raise BadInput("has no Python 3.11 or later below /usr", where=where, remedy="name a base with one")
    python = max(usable, key=lambda path: ("local" in path, usable[path]))
    return Base(
        taken.layers,
        here(),
        taken.digest,
        taken.environment,
        f"/{python}",
        usable[python],
        f"/{init}" if init else None,
        debian_packages(status, copyrights),
    )


def _files(blob: Path) -> Iterator[tuple[str, bytes]]:
    """The paths in a layer, and of what is Debian's about its packages the content. Raises BadArtifact where it is no tar."""
    try:
        with blob.open("rb") as file:
            pressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            inner = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if pressed else file
            with tarfile.open(fileobj=inner, mode="r|") as tar:
                for member in tar:
                    read = _STATUS.fullmatch(member.name) or _COPYRIGHT.fullmatch(member.name)
                    content = tar.extractfile(member) if read and member.isreg() and member.size <= DOCUMENT_MOST_BYTES else None
                    yield member.name, content.read() if content else b""
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise BadArtifact("a layer is no tar", where=str(blob), remedy="copy the image again") from error


def require_mmdebstrap() -> str:
    """The program. Raises BadInput where it is not installed: said before anything is made."""
    found = shutil.which("mmdebstrap")
    if found is None:
        raise BadInput(
            "there is no base, and no mmdebstrap to make one",
            where="--base",
            remedy="give --base oci:DIR:TAG (skopeo copies one there), or install Debian's package mmdebstrap",
        )
    return found


def make_base(layout: Layout, scratch: Path, *, epoch_s: int) -> Descriptor:
    """A small Debian with Python as an image in the layout, tagged `headrace-base`. Minutes over a slow line.

    `scratch` is a folder for it meanwhile. Raises Unreachable, NoCapacity.

    Its packages are those of the day: to make the same image on another day, keep this base and give it again.
    """
    program = require_mmdebstrap()
    tar = scratch / "base.tar"
    ended = subprocess.run(
        _command(program, tar), env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch_s)}, capture_output=True, check=False
    )
    if ended.returncode != 0:
        tail = ended.stderr[-_TAIL_BYTES:].decode(errors="replace").strip()
        if "No space left" in tail:
            raise NoCapacity(
                "no space left for the base", where=str(scratch), remedy="free some space; mmdebstrap uses TMPDIR too"
            )
        raise Unreachable(
            f"mmdebstrap failed: {tail}",
            where="mmdebstrap",
            remedy="see that Debian's packages can be fetched, or give --base",
        )
    layer = press_tar(layout, "base", tar)
    tar.unlink()
    config = {
        "architecture": here(),
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    return add_image(layout, config, [layer.descriptor], {"org.opencontainers.image.title": BASE_TAG})


def _command(program: str, tar: Path) -> Sequence[str]:
    excluded = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
    return [
        program,
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *excluded,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",  # the licences stay
        '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/cache/ldconfig/* "$1"/var/log/*',
        SUITE,
        str(tar),
    ]
