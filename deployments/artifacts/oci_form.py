"""A version in OCI's forms: one index with a ModelPack manifest and images (KServe's ModelCar) over the same layers.

Layers are tars, uncompressed, with the files below `models/`: manifest.json, then what describes the version, then the engine's
files, each large one alone. Kubernetes mounts the images as volumes; whoever knows ModelPack sees kinds of files. To Headrace
the version's own manifest stays the truth: its digest stands in an annotation, and is checked after a pull.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.artifacts.manifest import BESIDE, DESCRIBING, KEYS, MANIFEST, Manifest, verify
from deployments.oci.descriptors import INDEX_TYPE, MANIFEST_TYPE, Descriptor, encoded
from deployments.oci.image_files import add_image, architectures_of, take_image
from deployments.oci.layers import Layer, LayerEntry, write_layer
from deployments.oci.layout import Layout
from deployments.oci.references import LayoutTag

MODELPACK_TYPE = "application/vnd.cncf.model.manifest.v1+json"
MODELPACK_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.tar"
SETTINGS_TYPE = "application/vnd.cncf.model.weight.config.v1.tar"
DOC_TYPE = "application/vnd.cncf.model.doc.v1.tar"
FILE_PATH = "org.cncf.model.filepath"
# Ours: the SHA-256 of the version's manifest, and of each layer the sizes of its files.
DIGEST = "dev.headrace.version.digest"
SIZES = "dev.headrace.layer.sizes"

BELOW = "models"
ARCHITECTURES = ("amd64", "arm64")
ALONE_MOST = 32  # files with a layer of their own; an image can't have many more


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What goes into one layer: ModelPack's kind of it, and sizes in bytes by path below the artifact."""

    media_type: str
    sizes: dict[str, int]

    @property
    def name(self) -> str:
        """The file, or the folder of several."""
        return f"{BELOW}/{next(iter(self.sizes))}" if len(self.sizes) == 1 else BELOW


def layers_of(manifest: Manifest, first: Mapping[str, int], keys_bytes: int = 0) -> Sequence[LayerPlan]:
    """How a version is cut into layers; `first` has the sizes in bytes of its manifest.json and of what signs it, `keys_bytes` is
    that of keys.json, where it is sealed. Pure."""
    files = sorted(manifest.files, key=lambda entry: (-entry.size_bytes, entry.path))
    described = {entry.path: entry.size_bytes for entry in files if entry.path in DESCRIBING}
    weights = [(entry.path, entry.size_bytes) for entry in files if entry.path not in DESCRIBING]
    alone, rest = weights[:ALONE_MOST], weights[ALONE_MOST:]
    return [
        LayerPlan(SETTINGS_TYPE, dict(first)),
        # Apart: other keys leave every other layer as it is.
        *([LayerPlan(SETTINGS_TYPE, {KEYS: keys_bytes})] if manifest.seal else []),
        *([LayerPlan(DOC_TYPE, described)] if described else []),
        *(LayerPlan(WEIGHT_TYPE, {path: size}) for path, size in alone),
        *([LayerPlan(WEIGHT_TYPE, dict(rest))] if rest else []),
    ]


def pack(layout: Layout, folder: Path, digest: str, base: LayoutTag | None = None) -> Descriptor:
    """Writes a version into a layout, the same bytes for the same version, and returns the index.

    The images have the files on a base, for the architectures that it has, or alone. Raises BadArtifact where the version is
    damaged, before anything is written; NotFound, BadInput of the base; NoCapacity, Unreachable.
    """
    return write_forms(layout, folder, verify(folder, digest), digest, base)


def write_forms(layout: Layout, folder: Path, manifest: Manifest, digest: str, base: LayoutTag | None = None) -> Descriptor:
    """As `pack`, of files that are taken as they are."""
    keys_bytes = (folder / KEYS).stat().st_size if manifest.seal else 0
    found = [folder / name for name in (MANIFEST, *BESIDE) if (folder / name).is_file()]
    plans = layers_of(manifest, {file.name: file.stat().st_size for file in found}, keys_bytes)
    layers = [_written(layout, folder, plan) for plan in plans]
    annotations = {
        "org.opencontainers.image.title": manifest.model,
        "org.opencontainers.image.created": manifest.created_at,
        DIGEST: digest,
    }
    pack = _modelpack(layout, manifest, digest, plans, layers, annotations)
    architectures = ARCHITECTURES if base is None else architectures_of(base)
    images = [_image(layout, architecture, layers, annotations, base) for architecture in architectures]
    # Images first: of what takes no account of platforms, most take the first.
    entries = [one.document() for one in images] + [{**pack.document(), "artifactType": MODELPACK_TYPE}]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries, "annotations": annotations}
    return layout.add(encoded(index), INDEX_TYPE)


def _written(layout: Layout, folder: Path, plan: LayerPlan) -> Layer:
    entries = [LayerEntry(f"{BELOW}/{path}", folder / path) for path in plan.sizes]
    return write_layer(layout, plan.name, entries, compressed=False)


def _modelpack(
    layout: Layout,
    manifest: Manifest,
    digest: str,
    plans: Sequence[LayerPlan],
    layers: Sequence[Layer],
    annotations: dict[str, str],
) -> Descriptor:
    config = {
        "descriptor": {"name": manifest.model, "version": digest, "createdAt": manifest.created_at},
        "config": {"format": manifest.engine},
        "modelfs": {"type": "layers", "diffIds": [layer.diff_id for layer in layers]},
    }
    descriptors = [
        Descriptor(
            plan.media_type,
            layer.descriptor.digest,
            layer.descriptor.size_bytes,
            {FILE_PATH: plan.name, SIZES: json.dumps(plan.sizes, sort_keys=True)},
        )
        for plan, layer in zip(plans, layers, strict=True)
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": MODELPACK_TYPE,
        "config": layout.add(encoded(config), MODELPACK_CONFIG_TYPE).document(),
        "layers": [one.document() for one in descriptors],
        "annotations": annotations,
    }
    return layout.add(encoded(document), MANIFEST_TYPE)


def _image(
    layout: Layout, architecture: str, layers: Sequence[Layer], annotations: dict[str, str], base: LayoutTag | None
) -> Descriptor:
    """An image of the files for one architecture: they are the same for all, but a runtime asks for its own."""
    below = None if base is None else take_image(base, layout, architecture)
    every = [*(below.layers if below else ()), *layers]
    environment = {} if below is None else {"Env": [f"{name}={value}" for name, value in sorted(below.environment.items())]}
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Labels": annotations, **environment},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in every]},
    }
    one = add_image(layout, config, [layer.descriptor for layer in every], annotations)
    return replace(one, platform={"architecture": architecture, "os": "linux"})
