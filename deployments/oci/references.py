"""What names a manifest, in a layout or a registry, and the logins that are noted for registries."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import BadInput

SCHEME = "oci://"
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d+)?)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
)


@dataclass(frozen=True, slots=True)
class LayoutTag:
    """A tag in a layout: `oci:FOLDER:TAG`."""

    folder: Path
    tag: str

    def __str__(self) -> str:
        return f"oci:{self.folder}:{self.tag}"


def place_of(text: str, *, option: str, default_tag: str | None = None) -> LayoutTag:
    """Reads `oci:DIR:TAG`; the tag may be left out where there is a default. Raises BadInput. Pure."""
    scheme, _, rest = text.partition(":")
    folder, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        folder, tag = rest, default_tag or ""
    if scheme != "oci" or not folder or not tag or not tag.replace(".", "").replace("-", "").replace("_", "").isalnum():
        shape = "oci:DIR:TAG" if default_tag is None else "oci:DIR or oci:DIR:TAG"
        raise BadInput("names no place in an OCI layout", where=f"{option} {text}", remedy=f"write {shape}, e.g. oci:images:v1")
    return LayoutTag(Path(folder).expanduser().absolute(), tag)


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest in a registry: its host, its repository, and a tag or digest."""

    host: str
    name: str
    which: str

    def __str__(self) -> str:
        return f"{self.host}/{self.name}{'@' if self.which.startswith('sha256:') else ':'}{self.which}"


def reference_of(text: str, *, where: str, default_tag: str | None = None) -> Reference:
    """Reads HOST/NAME:TAG or HOST/NAME@sha256:HEX, with or without `oci://`; without either where a default tag is given.

    Raises BadInput. Pure.
    """
    found = _REFERENCE.fullmatch(text.removeprefix(SCHEME))
    which = None if found is None else found["digest"] or found["tag"] or default_tag
    if found is None or which is None:
        raise BadInput(
            "names nothing in a registry", where=f"{where} {text}", remedy="write HOST/NAME:TAG or HOST/NAME@sha256:HEX"
        )
    return Reference(found["host"], found["name"], which)


@dataclass(frozen=True, slots=True)
class Login:
    """A name and password for a registry's host."""

    user: str
    password: str = field(repr=False)


def login_for(host: str, environment: Mapping[str, str]) -> Login | None:
    """What `docker login`, `podman login` or `skopeo login` noted of the host; None where nothing is. Raises BadInput."""
    named = environment.get("REGISTRY_AUTH_FILE")
    runtime, docker = environment.get("XDG_RUNTIME_DIR"), environment.get("DOCKER_CONFIG")
    files = [
        *([Path(named)] if named else []),
        *([Path(runtime) / "containers" / "auth.json"] if runtime else []),
        (Path(docker) if docker else Path.home() / ".docker") / "config.json",
    ]
    for file in files:
        if not file.is_file():
            continue
        try:
            noted = json.loads(file.read_bytes()).get("auths", {}).get(host, {}).get("auth")
            if noted:
                user, _, password = base64.b64decode(noted).decode().partition(":")
                return Login(user, password)
        except (ValueError, AttributeError) as error:
            raise BadInput("is no file of logins", where=str(file), remedy="log in again") from error
    return None
