"""Third-party wheels for an image: those that are installed here, in their very versions, for the base's Python."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distribution, distributions
from pathlib import Path

from cluster.errors import BadInput, HeadraceError, NoCapacity, Unreachable
from deployments.images.bill import bill_of_wheels
from deployments.images.variants import TORCH, ImageVariant
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
BACKEND = "UV_TORCH_BACKEND"
_EXTRAS = ("postgres", "librdkafka", "tokenizers", "traces")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
_TAIL_BYTES = 1500


@dataclass(frozen=True, slots=True)
class Pins:
    """Every wheel of an image in its exact version, as `name==version` lines, and what they are installed for.

    `torch_backend` is what uv is asked for of PyTorch's own indexes, e.g. `cpu`; empty where the package index alone is asked.
    """

    lines: tuple[str, ...]
    python_minor: int
    architecture: str
    torch_backend: str = ""

    @property
    def inputs(self) -> str:
        """A digest, the same where the same wheels are put in."""
        told = "\n".join((*self.lines, f"3.{self.python_minor}", self.architecture, self.torch_backend, "form 4"))
        return hashlib.sha256(told.encode()).hexdigest()


def requirements(variant: ImageVariant) -> tuple[str, ...]:
    """What Headrace itself asks for in this variant."""
    asked = []
    for line in distribution("headrace").requires or ():
        extra, plain = _EXTRA.search(line), line.partition(";")[0].strip()
        if extra is None:
            asked.append(line)
        elif extra[1] in _EXTRAS and not line.startswith("headrace"):
            asked.append(plain)
        elif variant is ImageVariant.SERVE_TORCH and extra[1] == TORCH and plain.startswith(TORCH):
            asked.append(plain)  # the rest of that extra exports models, and executes none
    return tuple(asked)


def require_uv() -> str:
    """The installer. Raises BadInput where there is none."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise BadInput("uv is not installed, which fetches the wheels", where="uv", remedy="pip install uv")
    return found


def torch_backend(variant: ImageVariant, environment: Mapping[str, str]) -> str:
    """Which of PyTorch's builds: UV_TORCH_BACKEND says so, e.g. `cu130`, or for CPUs; empty: what the package index has. Pure."""
    return environment.get(BACKEND, "cpu") if variant is ImageVariant.SERVE_TORCH else ""


def resolve(variant: ImageVariant, *, python_minor: int, architecture: str) -> Pins:
    """The wheels of an image. Versions are those installed here. Raises BadInput where the base has none, Unreachable."""
    installed = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"] != "headrace"}
    aim = Pins((), python_minor, architecture, torch_backend(variant, os.environ))
    with tempfile.TemporaryDirectory(prefix="headrace-wheels-") as scratch:
        constraints = Path(scratch) / "constraints.txt"
        # Without what follows a plus: PyTorch's builds for CPUs and GPUs differ in that alone.
        pins = sorted(f"{name}=={version.partition('+')[0]}\n" for name, version in installed.items())
        constraints.write_text("".join(pins), encoding="utf-8")
        asked = Path(scratch) / "asked.in"
        asked.write_text("\n".join(requirements(variant)), encoding="utf-8")
        command = ["pip", "compile", "--no-header", "--no-annotate", "--no-strip-markers", str(asked), "-c", str(constraints)]
        told = _uv(command, aim)
    lines = sorted(line.strip() for line in told.splitlines() if line.strip() and not line.startswith(("#", "-")))
    return replace(aim, lines=tuple(lines))


def install(pins: Pins, folder: Path) -> None:
    """Installs the wheels below the folder. Raises BadInput where one is for another architecture, Unreachable, NoCapacity."""
    asked = folder / "pins.txt"
    site = folder / "site"
    folder.mkdir(parents=True, exist_ok=True)
    asked.write_text("\n".join(pins.lines), encoding="utf-8")
    _uv(["pip", "install", "--no-deps", "--link-mode", "hardlink", "--target", str(site), "-r", str(asked)], pins)
    check_architecture(site, pins.architecture)


def _uv(command: Sequence[str], aim: Pins) -> str:
    machine = _PLATFORMS.get(aim.architecture, aim.architecture)
    aimed = ["--python-version", f"3.{aim.python_minor}", "--python-platform", f"{machine}-unknown-linux-gnu"]
    if aim.torch_backend:
        aimed += ["--torch-backend", aim.torch_backend]
    ended = subprocess.run(
        [require_uv(), *command, *aimed, "--only-binary", ":all:", "--python", sys.executable],
        env={name: value for name, value in os.environ.items() if name != BACKEND},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 0:
        return ended.stdout
    raise _refusal(ended.stderr[-_TAIL_BYTES:].strip(), machine, aim)


def _refusal(tail: str, machine: str, aim: Pins) -> HeadraceError:
    """What uv's last words mean. Pure."""
    if any(words in tail for words in ("No space left", "os error 28", "os error 122")):
        return NoCapacity(
            "no space left for the wheels", where="uv", remedy="free some space, or set UV_CACHE_DIR to another disk"
        )
    if "No solution found" in tail:
        return BadInput(
            f"there is no wheel for Python 3.{aim.python_minor} on {machine}: {tail}",
            where="wheels",
            remedy="name a base with this machine's Python and architecture",
        )
    remedy = "see that the package index can be reached"
    if aim.torch_backend:
        remedy += f", and PyTorch's own; with {BACKEND} set to nothing, the package index alone is asked for PyTorch"
    return Unreachable(f"the wheels can't be had: {tail}", where="uv", remedy=remedy)


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
    yield LayerEntry(BILL, bill_of_wheels(site))


def _record(text: str) -> bytes:
    """RECORD without the files that are left out."""
    gone = tuple(f"/{name}," for name in _OF_THE_INSTALLER)
    starts = ("bin/", "../", *(folder.removeprefix(f"{SITE}/") for folder in _NOT_NEEDED))
    kept = [line for line in text.splitlines() if not line.startswith(starts) and not any(one in line for one in gone)]
    return "".join(f"{line}\n" for line in sorted(kept)).encode()
