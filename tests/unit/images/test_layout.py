"""Layers and layouts: the same bytes for the same files, a tag that appears last, and damage that is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.errors import BadArtifact, BadInput, NotFound
from deployments.images.base import require_mmdebstrap
from deployments.images.wheels import check_architecture
from deployments.oci.descriptors import MANIFEST_TYPE
from deployments.oci.layers import LayerEntry, write_layer
from deployments.oci.layout import Layout, copy_blob
from deployments.oci.references import place_of


def _layout(folder: Path) -> Layout:
    layout = Layout(folder)
    layout.prepare()
    return layout


def test_a_layer_has_the_same_digest_whatever_the_order_and_the_files_times(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    entries = [LayerEntry("opt/b", file), LayerEntry("opt/a/c", b"text", executable=True)]
    first = write_layer(_layout(tmp_path / "one"), "code", entries)
    os.utime(file, (1, 1))
    second = write_layer(_layout(tmp_path / "two"), "code", entries[::-1])
    assert first == second


def test_a_damaged_blob_is_neither_taken_over_nor_left_behind(tmp_path: Path) -> None:
    source, target = _layout(tmp_path / "source"), _layout(tmp_path / "target")
    layer = write_layer(source, "code", [LayerEntry("a", b"x" * 100)], compressed=False)
    path = source.path(layer.descriptor.digest)
    path.write_bytes(path.read_bytes().replace(b"x", b"y", 1))
    with pytest.raises(BadArtifact, match="damaged"):
        copy_blob(source, target, layer.descriptor)
    assert not list((tmp_path / "target" / "blobs" / "sha256").iterdir())


def test_a_tag_moves_and_others_stay(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    one, two = layout.add(b'{"a":1}', MANIFEST_TYPE), layout.add(b'{"a":2}', MANIFEST_TYPE)
    layout.tag(one, "v1")
    layout.tag(one, "v2")
    layout.tag(two, "v1")
    assert (layout.find("v1").digest, layout.find("v2").digest) == (two.digest, one.digest)
    with pytest.raises(NotFound, match="no tag v3"):
        layout.find("v3")


@pytest.mark.parametrize("text", ["", "images:v1", "oci:", "oci:images", "oci::v1", "oci:images:a b"])
def test_what_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--output"):
        place_of(text, option="--output")


def test_without_mmdebstrap_a_base_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="--base oci:DIR:TAG"):
        require_mmdebstrap()


def test_a_wheel_for_another_machine_is_named(tmp_path: Path) -> None:
    for name, tag in (("pure-1", "py3-none-any"), ("odd-2", "cp311-cp311-manylinux_2_28_aarch64")):
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "WHEEL").write_text(f"Tag: {tag}\n")
    check_architecture(tmp_path, "arm64")
    with pytest.raises(BadInput, match="odd-2: is a wheel for manylinux_2_28_aarch64"):
        check_architecture(tmp_path, "amd64")
