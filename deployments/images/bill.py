"""What is in an image and under which licences: bills of materials in CycloneDX's JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import orjson

# Debian's machine-readable copyright files say so; what others say in prose is not guessed at.
_LICENCE = re.compile(rb"^License:[ \t]*(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A package of the base, with the licences that its copyright file names."""

    name: str
    version: str
    architecture: str
    licences: tuple[str, ...] = ()


def debian_packages(status: bytes, copyrights: Mapping[str, bytes]) -> tuple[DebianPackage, ...]:
    """What dpkg's status file says is installed; `copyrights` are the packages' copyright files by name. Pure."""
    found = []
    for stanza in status.decode(errors="replace").split("\n\n"):
        fields = HeaderParser().parsestr(stanza)
        if fields["Package"] and str(fields["Status"] or "").endswith(" installed"):
            name = str(fields["Package"])
            licences = sorted({one.decode(errors="replace") for one in _LICENCE.findall(copyrights.get(name, b""))})
            found.append(DebianPackage(name, str(fields["Version"]), str(fields["Architecture"]), tuple(licences)))
    return tuple(sorted(found, key=lambda one: (one.name, one.architecture)))


def bill_of_debian(packages: Iterable[DebianPackage]) -> bytes:
    """Of the base's packages. Pure."""
    return _bill(
        _component(one.name, one.version, f"pkg:deb/debian/{one.name}@{one.version}?arch={one.architecture}", one.licences)
        for one in packages
    )


def bill_of_wheels(site: Path) -> bytes:
    """Of the wheels that are installed there."""
    components = []
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(metadata.read_text(errors="replace"))
        name, version = str(fields["Name"]), str(fields["Version"])
        licence = _licence(fields["License-Expression"], fields["License"], fields.get_all("Classifier") or [])
        components.append(_component(name, version, f"pkg:pypi/{name.lower()}@{version}", [licence] if licence else []))
    return _bill(components)


def _bill(components: Iterable[Mapping[str, Any]]) -> bytes:
    return orjson.dumps({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": list(components)})


def _component(name: str, version: str, purl: str, licences: Iterable[str]) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "library", "name": name, "version": version, "purl": purl}
    if told := [{"license": {"name": licence}} for licence in licences]:
        one["licenses"] = told
    return one


def _licence(expression: str | None, text: str | None, classifiers: Sequence[str]) -> str:
    if expression:
        return str(expression)
    if text and len(text) < 80:
        return str(text)
    return ", ".join(one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::"))
