"""Images in layouts: one written of layers, and the layers of one taken over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import BadArtifact, BadInput
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
from deployments.oci.layers import DIFF_ID, NAME, Layer
from deployments.oci.layout import Layout, copy_blob
from deployments.oci.references import LayoutTag

LAYER_TYPES = (LAYER_TYPE, GZIP_LAYER_TYPE, DOCKER_LAYER_TYPE)


@dataclass(frozen=True, slots=True)
class TakenImage:
    """An image's layers in a layout where others go on them; its digest there where it came from, and its environment."""

    layers: tuple[Layer, ...]
    digest: str
    environment: Mapping[str, str]


def take_image(source: LayoutTag, target: Layout, architecture: str) -> TakenImage:
    """Takes the layers of an image for that architecture over, checked. Raises NotFound, BadArtifact, BadInput."""
    layout, where = Layout(source.folder), str(source)
    top = layout.find(source.tag)
    manifest = layout.document(_for_architecture(layout, top, architecture, where))
    config = layout.document(Descriptor.read(manifest.get("config"), where))
    descriptors = [Descriptor.read(one, where) for one in manifest.get("layers") or []]
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    if not descriptors or len(descriptors) != len(diff_ids):
        raise BadArtifact("is no image: its layers and its configuration differ", where=where, remedy="name an image's tag")
    unknown = next((one.media_type for one in descriptors if one.media_type not in LAYER_TYPES), None)
    if unknown is not None:
        raise BadInput(f"has a layer of the kind {unknown}", where=where, remedy="copy it with gzip layers first")
    if (its := config.get("architecture")) != architecture:
        raise BadInput(f"is an image for {its}", where=where, remedy=f"name one for {architecture}")
    layers = []
    for one, diff_id in zip(descriptors, diff_ids, strict=True):
        was_there = not copy_blob(layout, target, one)
        kind = GZIP_LAYER_TYPE if one.media_type == DOCKER_LAYER_TYPE else one.media_type
        told = Descriptor(kind, one.digest, one.size_bytes, {NAME: "base", DIFF_ID: diff_id})
        layers.append(Layer("base", told, diff_id, reused=was_there))
    variables = dict(text.split("=", 1) for text in (config.get("config") or {}).get("Env") or [] if "=" in text)
    return TakenImage(tuple(layers), top.digest, variables)


def architectures_of(source: LayoutTag) -> tuple[str, ...]:
    """Those that an image is there for, as OCI names them. Raises NotFound, BadArtifact."""
    layout, where = Layout(source.folder), str(source)
    top = layout.find(source.tag)
    document = layout.document(top)
    if top.media_type in INDEX_TYPES:
        found = [Descriptor.read(each, where) for each in document.get("manifests") or []]
        return tuple(str((each.platform or {}).get("architecture")) for each in found)
    return (str(layout.document(Descriptor.read(document.get("config"), where)).get("architecture")),)


def _for_architecture(layout: Layout, one: Descriptor, architecture: str, where: str) -> Descriptor:
    if one.media_type in MANIFEST_TYPES:
        return one
    if one.media_type not in INDEX_TYPES:
        raise BadInput(f"is no image, but {one.media_type}", where=where, remedy="name an image's tag")
    found = [Descriptor.read(each, where) for each in layout.document(one).get("manifests") or []]
    mine = [each for each in found if (each.platform or {}).get("architecture") == architecture]
    if not mine:
        raise BadInput(f"has no image for {architecture}", where=where, remedy="name one that has")
    return mine[0]


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
