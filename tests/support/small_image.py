"""What an image is put together of, small: a base of a few files, and stand-ins for all wheels in a folder that uv reads."""

from __future__ import annotations

import re
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from deployments.images.base import here
from deployments.images.variants import ImageVariant
from deployments.images.wheels import requirements
from deployments.oci.image_files import add_image
from deployments.oci.layers import LayerEntry, write_layer
from deployments.oci.layout import Layout
from deployments.oci.references import LayoutTag

STATUS = """\
Package: libgomp1
Status: install ok installed
Architecture: amd64
Version: 12.2.0-14

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
COPYRIGHT = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nFiles: *\nLicense: GPL-3+\n text\n"


def small_base(folder: Path, *, architecture: str | None = None) -> LayoutTag:
    """An image with a Python that is none, and one of Debian's packages."""
    layout = Layout(folder)
    layout.prepare()
    layer = write_layer(
        layout,
        "base",
        [
            LayerEntry("usr/bin/python3.11", b"", executable=True),
            LayerEntry("usr/bin/tini", b"", executable=True),
            LayerEntry("var/lib/dpkg/status", STATUS.encode()),
            LayerEntry("usr/share/doc/libgomp1/copyright", COPYRIGHT.encode()),
        ],
    )
    config = {"architecture": architecture or here(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}
    layout.tag(add_image(layout, config, [layer.descriptor], {}), "base")
    return LayoutTag(folder, "base")


def stand_in_wheels(folder: Path, monkeypatch: pytest.MonkeyPatch, *, torch: str = "+cpu", size_bytes: int = 10) -> None:
    """Wheels in the names and versions of those that an image takes, with a file each, are all that uv finds from now on.

    `torch` is the local part of PyTorch's version; `size_bytes` the size of that file.
    """
    folder.mkdir()
    names = {_name(line) for line in requirements(ImageVariant.SERVE_TORCH)}
    for name in sorted(names):
        local = torch if name == "torch" else ""
        stand_in(folder, name, f"{version(name)}{local}", size_bytes=size_bytes)
    for name, value in {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(folder), "UV_OFFLINE": "1", "UV_TORCH_BACKEND": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UV_CACHE_DIR", str(folder.parent / "uv"))


def stand_in(folder: Path, name: str, number: str, *, platform: str = "any", size_bytes: int = 10) -> None:
    """One wheel; `platform` is its tag's."""
    module = name.replace("-", "_").lower()
    info = f"{module}-{number}.dist-info"
    tag = f"py3-none-{platform}"
    files = {
        f"{module}/__init__.py": b"#" * size_bytes,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\nLicense-Expression: MIT\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{module}-{number}-{tag}.whl", "w") as wheel:
        for path, content in {**files, f"{info}/RECORD": record.encode()}.items():
            wheel.writestr(path, content)


def _name(line: str) -> str:
    return re.split(r"[\[<>=~!; ]", line, maxsplit=1)[0]
