"""An image put together: base, wheels, our code, models, each a layer that changes as seldom as it can."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from cluster.errors import BadArtifact, BadInput
from deployments.artifacts.manifest import BESIDE, KEYS, verify
from deployments.images.base import BASE_TAG, Base, make_base, read_base, require_mmdebstrap
from deployments.images.bill import bill_of_debian
from deployments.images.variants import ImageVariant, variant_for
from deployments.images.wheels import SITE, entries, install, require_uv, resolve
from deployments.oci.descriptors import Descriptor
from deployments.oci.image_files import add_image
from deployments.oci.layers import Layer, LayerEntry, files_below, reusable, write_layer
from deployments.oci.layout import Layout
from deployments.oci.references import LayoutTag

UID = 10001
HOME = "/var/lib/headrace"
APP = "opt/headrace/app"
BIN = "opt/headrace/bin"
MODELS = "opt/headrace/models"
SHARE = "opt/headrace/share"
DOCUMENT = "model.json"
ROOMS = ("cluster", "deployments", "consumers", "headrace")
PORTS = ("8000/tcp", "9000/tcp")

Say = Callable[[str], None]

# Compiled modules go to /tmp: the root may be read-only, and files in layers all have the same time.
ENVIRONMENT = {
    "HOME": HOME,
    "HEADRACE_HOME": HOME,
    "HEADRACE_ARTIFACT_CACHE": f"{HOME}/cache",
    "USER": "headrace",  # 10001 has no entry in /etc/passwd
    "LOGNAME": "headrace",
    "PYTHONPATH": f"/{APP}:/{SITE}",
    "PYTHONPYCACHEPREFIX": "/tmp/pycache",  # noqa: S108 (of a container of its own)
    "PYTHONUNBUFFERED": "1",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}

_HEALTH = """\
import os, ssl, sys, urllib.request
port = os.environ.get("HEADRACE_HTTP_PORT", "8000")
url = os.environ.get("HEADRACE_HEALTH_URL", f"http://127.0.0.1:{port}/v2/health/ready")
# Over TLS its own certificate is not for 127.0.0.1: what counts is that it answers.
context = ssl._create_unverified_context() if url.startswith("https:") else None
try:
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    urllib.request.build_opener(*handlers).open(url, timeout=5)
except OSError as error:
    sys.exit(f"not ready: {error}")
"""


@dataclass(frozen=True, slots=True)
class ModelAboard:
    """A version that goes into an image: its name, its verified folder here, its digest, and its document's JSON."""

    name: str
    folder: Path
    digest: str
    document: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """What was written: the manifest's descriptor, and its layers, base first."""

    manifest: Descriptor
    layers: tuple[Layer, ...]

    @property
    def size_bytes(self) -> int:
        """What a registry keeps of it."""
        return sum(layer.descriptor.size_bytes for layer in self.layers)


def build_image(
    output: LayoutTag,
    *,
    base: LayoutTag | None,
    variant: ImageVariant | None,
    models: Sequence[ModelAboard],
    epoch_s: int,
    say: Say,
) -> Image:
    """Writes an image into the layout, and its tag last: of a build that fails nothing stays.

    Without a variant, it is the one that the models need.

    The same base, wheels, code and models give the same digests; `epoch_s` is the time that it says it was made at, in seconds.
    Raises BadInput, NotFound and BadArtifact of what is given before anything is written; Conflict where another one builds
    there; NoCapacity, Unreachable.
    """
    require_uv()
    if base is None:
        require_mmdebstrap()
    else:
        Layout(base.folder).find(base.tag)
    engines = {model.name: verify(model.folder, model.digest).engine for model in models}
    variant = variant_for(engines, variant)
    layout = Layout(output.folder)
    with layout.building() as scratch:
        if base is None:
            say("base: makes a small Debian, tagged headrace-base")
            layout.tag(make_base(layout, scratch, epoch_s=epoch_s), BASE_TAG)
            base = LayoutTag(output.folder, BASE_TAG)
        stands_on = read_base(base, layout)
        for layer in stands_on.layers:
            say(told(layer))
        layers = [*stands_on.layers]
        for made in _ours(layout, stands_on, variant, models, scratch):
            say(told(made))
            layers.append(made)
        manifest = add_image(
            layout,
            configuration(stands_on, layers, variant, models, epoch_s),
            [layer.descriptor for layer in layers],
            _annotations(stands_on, variant, epoch_s),
        )
        layout.tag(manifest, output.tag)
    return Image(manifest, tuple(layers))


def told(layer: Layer) -> str:
    """One layer in a line. Pure."""
    size = f"{layer.descriptor.size_bytes / 1e6:,.1f} MB"
    unpacked = f", {layer.unpacked_bytes / 1e6:,.1f} MB unpacked" if layer.unpacked_bytes else ""
    return f"{layer.name}: {size}{unpacked}{', reused' if layer.reused else ''}"


def _ours(layout: Layout, base: Base, variant: ImageVariant, models: Sequence[ModelAboard], scratch: Path) -> Iterator[Layer]:
    known = _known_layers(layout)
    pins = resolve(variant, python_minor=base.python_minor, architecture=base.architecture)
    found = reusable(layout, known, pins.inputs)
    if found is not None:
        yield found
    else:
        install(pins, scratch / "wheels")
        yield write_layer(layout, "wheels", entries(scratch / "wheels" / "site"), inputs=pins.inputs)
    yield write_layer(layout, "headrace", _code(base))
    for model in models:
        found = reusable(layout, known, _inputs(model))
        # Weights do not shrink.
        yield found or write_layer(layout, f"model {model.name}", _model(model), inputs=_inputs(model), compressed=False)


def _inputs(model: ModelAboard) -> str:
    # Who signed it, and whom a sealed version is sealed for, are no part of its digest.
    beside = [(model.folder / name).read_bytes() for name in (*BESIDE, KEYS) if (model.folder / name).is_file()]
    return hashlib.sha256(b"\n".join((model.name.encode(), model.digest.encode(), model.document, *beside))).hexdigest()


def _model(model: ModelAboard) -> Iterator[LayerEntry]:
    yield LayerEntry(f"{MODELS}/{model.name}/{DOCUMENT}", model.document)
    yield from files_below(model.folder, f"{MODELS}/{model.name}/{model.digest}")


def _code(base: Base) -> Iterator[LayerEntry]:
    python = base.python
    root = Path(__file__).parents[2]
    for room in ROOMS:
        yield from files_below(root / room, f"{APP}/{room}")
    about = distribution("headrace")
    info = f"{APP}/headrace-{about.version}.dist-info"
    for name in ("METADATA", "entry_points.txt", "WHEEL"):
        if (text := about.read_text(name)) is not None:
            yield LayerEntry(f"{info}/{name}", text.encode())
    for name in ("LICENSE", "THIRD_PARTY_NOTICES.md"):
        text = about.read_text(f"licenses/{name}")
        if text is None and (root / name).exists():
            text = (root / name).read_text()
        if text is None:
            raise BadInput(f"{name} is not installed with Headrace", where="headrace", remedy="install Headrace again")
        yield LayerEntry(f"{SHARE}/{name}", text.encode())
    if base.packages:
        yield LayerEntry(f"{SHARE}/sbom-base.cdx.json", bill_of_debian(base.packages))
    yield LayerEntry(f"{BIN}/headrace", f"#!{python}\nfrom headrace.cli.main import run\n\nrun()\n".encode(), executable=True)
    ray = f"#!{python}\nimport sys\n\nfrom ray.scripts.scripts import main\n\nsys.exit(main())\n"
    yield LayerEntry(f"{BIN}/ray", ray.encode(), executable=True)
    yield LayerEntry(f"{BIN}/headrace-health", f"#!{python}\n{_HEALTH}".encode(), executable=True)
    yield LayerEntry(HOME.removeprefix("/"), None, owner=UID)


def configuration(
    base: Base, layers: Sequence[Layer], variant: ImageVariant, models: Sequence[ModelAboard], epoch_s: int
) -> Mapping[str, Any]:
    """The image's configuration. Pure but for our version."""
    path = base.environment.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    environment = {**base.environment, **ENVIRONMENT, "PATH": f"/{BIN}:{path}"}
    up = [f"/{BIN}/headrace", "up", "--supervise", *(["--models", f"/{MODELS}"] if models else [])]
    return {
        "architecture": base.architecture,
        "os": "linux",
        "created": _at(epoch_s),
        "config": {
            "User": f"{UID}:{UID}",
            "Env": [f"{name}={value}" for name, value in sorted(environment.items())],
            "Entrypoint": [*([base.init, "--"] if base.init else []), *up],
            "WorkingDir": HOME,
            "ExposedPorts": {port: {} for port in PORTS},
            "Volumes": {HOME: {}, "/tmp": {}},  # noqa: S108 (of a container of its own)
            "StopSignal": "SIGTERM",
            "Labels": {
                "dev.headrace.variant": variant,
                "dev.headrace.models": " ".join(f"{one.name}@{one.digest}" for one in models),
                **_annotations(base, variant, epoch_s),
            },
            # Docker's own; Kubernetes asks /v2/health/ready itself.
            "Healthcheck": {
                "Test": ["CMD", f"/{BIN}/headrace-health"],
                "Interval": 10_000_000_000,
                "Timeout": 6_000_000_000,
                "StartPeriod": 120_000_000_000,
                "Retries": 3,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": _at(epoch_s), "created_by": f"headrace image build: {layer.name}"} for layer in layers],
    }


def _annotations(base: Base, variant: ImageVariant, epoch_s: int) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": f"headrace-{variant}",
        "org.opencontainers.image.version": distribution("headrace").version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": _at(epoch_s),
        "org.opencontainers.image.base.digest": base.digest,
    }


def _at(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _known_layers(layout: Layout) -> list[Descriptor]:
    """Layers of the images that the layout holds by their tags."""
    found: list[Descriptor] = []
    for one in layout.tagged():
        with suppress(BadArtifact):  # of one that is damaged nothing is reused
            found += [Descriptor.read(layer, str(layout.folder)) for layer in layout.document(one).get("layers") or []]
    return found
