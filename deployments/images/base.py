"""What an image stands on: an image that is given, or a small Debian made by mmdebstrap."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from cluster.errors import BadArtifact, BadInput, Unreachable
from deployments.oci.descriptors import (
    CONFIG_TYPE,
    DOCKER_LAYER_TYPE,
    GZIP_LAYER_TYPE,
    INDEX_TYPES,
    LAYER_TYPE,
    MANIFEST_TYPE,
    MANIFEST_TYPES,
    Descriptor,
    encoded,
)
from deployments.oci.layers import DIFF_ID, NAME, Layer, press_tar
from deployments.oci.layout import Layout, LayoutTag, copy_blob, told_of_disk

SUITE = "bookworm"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "ca-certificates", "libgomp1", "tini")
BASE_TAG = "headrace-base"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LAYER_TYPES = (LAYER_TYPE, GZIP_LAYER_TYPE, DOCKER_LAYER_TYPE)
_PYTHON = re.compile(r"(?:\./)?(usr/(?:local/)?bin/python3\.(\d+))")
_TINI = re.compile(r"(?:\./)?(usr/(?:local/)?s?bin/tini)")
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
_TAIL_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Base:
    """What the other layers go on. `python` is its interpreter's path and `python_minor` N of 3.N; `init` is tini's path."""

    layers: tuple[Layer, ...]
    architecture: str
    digest: str
    environment: Mapping[str, str]
    python: str
    python_minor: int
    init: str | None


def here() -> str:
    """This machine's architecture as OCI names it."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def read_base(source: LayoutTag, target: Layout) -> Base:
    """Takes a base's layers over into the layout, checked. Raises NotFound, BadArtifact, BadInput."""
    layout, where = Layout(source.folder), str(source)
    top = layout.find(source.tag)
    manifest = layout.document(_of_this_machine(layout, top, where))
    config = layout.document(Descriptor.read(manifest.get("config"), where))
    descriptors = [Descriptor.read(one, where) for one in manifest.get("layers") or []]
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    if not descriptors or len(descriptors) != len(diff_ids):
        raise BadArtifact("is no image: its layers and its configuration differ", where=where, remedy="name an image's tag")
    unknown = next((one.media_type for one in descriptors if one.media_type not in LAYER_TYPES), None)
    if unknown is not None:
        raise BadInput(f"has a layer of the kind {unknown}", where=where, remedy="copy it with gzip layers first")
    if (architecture := config.get("architecture")) != here():
        raise BadInput(f"is an image for {architecture}", where=where, remedy=f"name one for {here()}")
    layers = []
    for one, diff_id in zip(descriptors, diff_ids, strict=True):
        was_there = not copy_blob(layout, target, one)
        kind = GZIP_LAYER_TYPE if one.media_type == DOCKER_LAYER_TYPE else one.media_type
        told = Descriptor(kind, one.digest, one.size_bytes, {NAME: "base", DIFF_ID: diff_id})
        layers.append(Layer("base", told, diff_id, reused=was_there))
    variables = dict(text.split("=", 1) for text in (config.get("config") or {}).get("Env") or [] if "=" in text)
    return _looked_at(target, tuple(layers), top.digest, variables, where)


def _of_this_machine(layout: Layout, one: Descriptor, where: str) -> Descriptor:
    if one.media_type in MANIFEST_TYPES:
        return one
    if one.media_type not in INDEX_TYPES:
        raise BadInput(f"is no image, but {one.media_type}", where=where, remedy="name an image's tag")
    found = [Descriptor.read(each, where) for each in layout.document(one).get("manifests") or []]
    mine = [each for each in found if (each.platform or {}).get("architecture") == here()]
    if not mine:
        raise BadInput(f"has no image for {here()}", where=where, remedy="name one that has")
    return mine[0]


def _looked_at(layout: Layout, layers: tuple[Layer, ...], digest: str, environment: Mapping[str, str], where: str) -> Base:
    pythons: dict[str, int] = {}
    init: str | None = None
    for layer in layers:
        for path in _paths(layout.path(layer.descriptor.digest)):
            if found := _PYTHON.fullmatch(path):
                pythons[found[1]] = int(found[2])
            elif found := _TINI.fullmatch(path):
                init = found[1]
    usable = {path: minor for path, minor in pythons.items() if minor >= 11}
    if not usable:
        raise BadInput("has no Python 3.11 or later below /usr", where=where, remedy="name a base with one")
    python = max(usable, key=lambda path: ("local" in path, usable[path]))
    return Base(layers, here(), digest, environment, f"/{python}", usable[python], f"/{init}" if init else None)


def _paths(blob: Path) -> list[str]:
    """What is in a layer. Raises BadArtifact where it is no tar."""
    try:
        with blob.open("rb") as file:
            pressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            inner = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if pressed else file
            with tarfile.open(fileobj=inner, mode="r|") as tar:
                return [member.name for member in tar]
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


def make_base(layout: Layout, *, epoch_s: int) -> Descriptor:
    """A small Debian with Python as an image in the layout, tagged `headrace-base`. Minutes over a slow line. Raises Unreachable.

    Its packages are those of the day: to make the same image on another day, keep this base and give it again.
    """
    program = require_mmdebstrap()
    with told_of_disk(layout.folder), tempfile.TemporaryDirectory(prefix="headrace-base-") as scratch:
        tar = Path(scratch) / "base.tar"
        ended = subprocess.run(
            _command(program, tar), env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch_s)}, capture_output=True, check=False
        )
        if ended.returncode != 0:
            tail = ended.stderr[-_TAIL_BYTES:].decode(errors="replace").strip()
            raise Unreachable(
                f"mmdebstrap failed: {tail}",
                where="mmdebstrap",
                remedy="see that Debian's packages can be fetched, or give --base",
            )
        layer = press_tar(layout, "base", tar)
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


def add_image(
    layout: Layout, config: Mapping[str, Any], layers: Sequence[Descriptor], annotations: Mapping[str, str]
) -> Descriptor:
    """Writes an image's configuration and manifest."""
    configuration = layout.add(json.dumps(config, sort_keys=True).encode(), CONFIG_TYPE)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": configuration.document(),
        "layers": [one.document() for one in layers],
        "annotations": dict(annotations),
    }
    return layout.add(encoded(manifest), MANIFEST_TYPE)
