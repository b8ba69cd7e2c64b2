"""Third-party wheels for an image: those that are installed here, in their very versions, for the base's Python."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from enum import StrEnum
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import Any

import orjson

from cluster.errors import BadInput, NoCapacity, Unreachable
from deployments.oci.layers import LayerEntry, files_below

SITE = "opt/headrace/site"
BILL = "opt/headrace/share/sbom.cdx.json"
# What an installer writes of itself, its cache and this machine's folders.
_OF_THE_INSTALLER = ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
_LEFT_OUT = ("__pycache__", ".lock")
_SCRIPTS = f"{SITE}/bin/"  # their first line is this machine's Python
# What nothing here imports: packages' own tests, and Ray's workers in Java. Some 60 MB.
_NOT_NEEDED = tuple(
    f"{SITE}/{folder}/" for folder in ("pandas/tests", "pyarrow/tests", "numpy/_core/tests", "numpy/lib/tests", "ray/jars")
)
_PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}
_EXTRAS = ("postgres", "librdkafka", "tokenizers")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_TAIL_BYTES = 1500


class ImageVariant(StrEnum):
    """What an image can execute: ONNX alone, or PyTorch's programs too."""

    SERVE = "serve"
    SERVE_TORCH = "serve-torch"


@dataclass(frozen=True, slots=True)
class Pins:
    """Every wheel of an image in its exact version, as `name==version` lines, and a digest of what they are installed for."""

    lines: tuple[str, ...]
    python_minor: int
    architecture: str

    @property
    def inputs(self) -> str:
        """The same where the same wheels are put in."""
        told = "\n".join((*self.lines, f"3.{self.python_minor}", self.architecture, "form 3"))
        return hashlib.sha256(told.encode()).hexdigest()


def requirements(variant: ImageVariant) -> tuple[str, ...]:
    """What Headrace itself asks for in this variant."""
    extras = (*_EXTRAS, "torch") if variant is ImageVariant.SERVE_TORCH else _EXTRAS
    asked = []
    for line in distribution("headrace").requires or ():
        extra = _EXTRA.search(line)
        if extra is None:
            asked.append(line)
        elif extra[1] in extras and not line.startswith("headrace"):
            asked.append(line.partition(";")[0].strip())
    return tuple(asked)


def require_uv() -> str:
    """The installer. Raises BadInput where there is none."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise BadInput("uv is not installed, which fetches the wheels", where="uv", remedy="pip install uv")
    return found


def resolve(variant: ImageVariant, *, python_minor: int, architecture: str) -> Pins:
    """The wheels of an image. Versions are those installed here. Raises BadInput where the base has none, Unreachable."""
    installed = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"] != "headrace"}
    with tempfile.TemporaryDirectory(prefix="headrace-wheels-") as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
        asked = Path(scratch) / "asked.in"
        asked.write_text("\n".join(requirements(variant)))
        told = _uv(
            ["pip", "compile", "--no-header", "--no-annotate", "--no-strip-markers", str(asked), "-c", str(constraints)],
            python_minor,
            architecture,
        )
    lines = sorted(line.strip() for line in told.splitlines() if line.strip() and not line.startswith(("#", "-")))
    return Pins(tuple(lines), python_minor, architecture)


def install(pins: Pins, folder: Path) -> None:
    """Installs the wheels below the folder. Raises BadInput where one is for another architecture, Unreachable, NoCapacity."""
    asked = folder / "pins.txt"
    site = folder / "site"
    folder.mkdir(parents=True, exist_ok=True)
    asked.write_text("\n".join(pins.lines))
    command = ["pip", "install", "--no-deps", "--link-mode", "hardlink", "--target", str(site), "-r", str(asked)]
    _uv(command, pins.python_minor, pins.architecture)
    check_architecture(site, pins.architecture)


def _uv(command: Sequence[str], python_minor: int, architecture: str) -> str:
    machine = _PLATFORMS.get(architecture, architecture)
    aimed = ["--python-version", f"3.{python_minor}", "--python-platform", f"{machine}-unknown-linux-gnu"]
    ended = subprocess.run(
        [require_uv(), *command, *aimed, "--only-binary", ":all:", "--python", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 0:
        return ended.stdout
    tail = ended.stderr[-_TAIL_BYTES:].strip()
    if "No space left" in tail:
        raise NoCapacity("no space left for the wheels", where="uv", remedy="free some space, or set TMPDIR to another disk")
    if "No solution found" in tail:
        raise BadInput(
            f"there is no wheel for Python 3.{python_minor} on {machine}: {tail}",
            where="wheels",
            remedy="name a base with this machine's Python and architecture",
        )
    raise Unreachable(f"the wheels can't be had: {tail}", where="uv", remedy="see that the package index can be reached")


def check_architecture(site: Path, architecture: str) -> None:
    """Raises BadInput where a wheel among the installed ones is for another machine."""
    machine = _PLATFORMS.get(architecture, architecture)
    for wheel in sorted(site.glob("*.dist-info/WHEEL")):
        platforms = [line.split("-")[-1].strip() for line in wheel.read_text().splitlines() if line.startswith("Tag:")]
        if platforms and not any(one == "any" or one.endswith(f"_{machine}") for one in platforms):
            raise BadInput(
                f"is a wheel for {platforms[0]}",
                where=wheel.parent.name.removesuffix(".dist-info"),
                remedy=f"an image for {architecture} takes one for {machine} alone",
            )


def entries(site: Path) -> Iterator[LayerEntry]:
    """The installed wheels as a layer's entries, and a list of them (CycloneDX) with their licences."""
    for entry in files_below(site, SITE, without=(*_LEFT_OUT, *_OF_THE_INSTALLER)):
        if entry.path.startswith((_SCRIPTS, *_NOT_NEEDED)):
            continue
        if entry.path.endswith(".dist-info/RECORD") and isinstance(entry.content, Path):
            yield LayerEntry(entry.path, _record(entry.content.read_text()))
        else:
            yield entry
    yield LayerEntry(BILL, bill(site))


def _record(text: str) -> bytes:
    """RECORD without the files that are left out."""
    gone = tuple(f"/{name}," for name in _OF_THE_INSTALLER)
    starts = ("bin/", "../", *(folder.removeprefix(f"{SITE}/") for folder in _NOT_NEEDED))
    kept = [line for line in text.splitlines() if not line.startswith(starts) and not any(one in line for one in gone)]
    return "".join(f"{line}\n" for line in sorted(kept)).encode()


def bill(site: Path) -> bytes:
    """The software bill of materials, in CycloneDX's JSON: each wheel's name, version and licence."""
    components = []
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(metadata.read_text(errors="replace"))
        name, version = str(fields["Name"]), str(fields["Version"])
        one: dict[str, Any] = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}
        if licence := _licence(fields["License-Expression"], fields["License"], fields.get_all("Classifier") or []):
            one["licenses"] = [{"license": {"name": licence}}]
        components.append(one)
    return orjson.dumps({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components})


def _licence(expression: str | None, text: str | None, classifiers: Sequence[str]) -> str:
    if expression:
        return str(expression)
    if text and len(text) < 80:
        return str(text)
    return ", ".join(one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::"))
