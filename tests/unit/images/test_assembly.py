"""Images put together of small parts, by the real uv: what is in them, what a build reuses, and what a failed one leaves."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadArtifact, BadInput, Conflict, NoCapacity, NotFound, Unreachable
from deployments.artifacts.package import write_artifact
from deployments.artifacts.samples import Samples
from deployments.images.image import Image, ModelAboard, build_image
from deployments.images.variants import ImageVariant, variant_for
from deployments.oci.layout import Layout
from deployments.oci.references import LayoutTag
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows
from tests.support.small_disk import mounted
from tests.support.small_image import small_base, stand_in, stand_in_wheels

Build = Callable[..., Image]
BILL, BASE_BILL = "opt/headrace/share/sbom.cdx.json", "opt/headrace/share/sbom-base.cdx.json"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which uv finds stand-ins, and nothing else."""
    stand_in_wheels(tmp_path / "wheels", monkeypatch)
    return tmp_path / "wheels"


@pytest.fixture
def build(tmp_path: Path, wheels: Path) -> Build:
    """Builds into a layout of its own, of a small base."""
    base = small_base(tmp_path / "base")

    def built(
        *models: ModelAboard, variant: ImageVariant | None = None, output: Path = tmp_path / "out", base: LayoutTag = base
    ) -> Image:
        return build_image(LayoutTag(output, "v1"), base=base, variant=variant, models=models, epoch_s=0, say=lambda _: None)

    return built


def onnx_model(folder: Path) -> ModelAboard:
    uri, digest, _ = mlp_artifact(folder)
    return ModelAboard("digits", Path(uri), digest, b'{"name":"digits"}')


def torch_model(folder: Path) -> ModelAboard:
    """A version that says it needs PyTorch; nothing executes it."""
    folder.mkdir()
    program = folder / "program"
    program.write_bytes(b"none")
    artifact = write_artifact(
        folder,
        model="net",
        engine="torch",
        signature=SIGNATURE,
        files={"model.pt2": program},
        samples=Samples(inputs={INPUT: rows(1)}, outputs={OUTPUT: np.zeros((1, 10), np.float32)}),
        report={},
        source={"kind": "test"},
    )
    return ModelAboard("net", Path(artifact.uri), artifact.digest, b'{"name":"net"}')


def files_of(folder: Path, image: Image) -> dict[str, bytes]:
    """What is in its layers, by path."""
    found: dict[str, bytes] = {}
    for layer in image.layers:
        blob = Layout(folder).path(layer.descriptor.digest).read_bytes()
        content = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
        (folder.parent / "layer.tar").write_bytes(content)
        with tarfile.open(folder.parent / "layer.tar") as tar:
            for member in tar:
                if file := tar.extractfile(member) if member.isreg() else None:
                    found[member.name] = file.read()
    return found


def blobs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs" / "sha256").iterdir()}


def test_it_has_its_parts_and_says_what_they_are(build: Build, tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "artifacts")
    image = build(model)
    files = files_of(tmp_path / "out", image)
    assert files[f"opt/headrace/models/digits/{model.digest}/manifest.json"] == (model.folder / "manifest.json").read_bytes()
    assert "opt/headrace/app/headrace/cli/main.py" in files
    assert "opt/headrace/site/ray/__init__.py" in files
    assert "opt/headrace/site/torch/__init__.py" not in files
    wheels = {one["name"]: one for one in json.loads(files[BILL])["components"]}
    assert wheels["ray"]["licenses"] == [{"license": {"name": "MIT"}}]
    assert json.loads(files[BASE_BILL])["components"] == [
        {
            "type": "library",
            "name": "libgomp1",
            "version": "12.2.0-14",
            "purl": "pkg:deb/debian/libgomp1@12.2.0-14?arch=amd64",
            "licenses": [{"license": {"name": "GPL-3+"}}],
        }
    ]


def test_the_same_again_reuses_and_elsewhere_is_the_same_to_the_byte(build: Build, tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "artifacts")
    first = build(model)
    again = build(model)
    assert {layer.name for layer in again.layers if layer.reused} == {"base", "wheels", "model digits"}
    assert build(model, output=tmp_path / "elsewhere").manifest == again.manifest == first.manifest


def test_a_version_for_pytorch_makes_it_an_image_with_pytorch(build: Build, tmp_path: Path) -> None:
    model = torch_model(tmp_path / "artifacts")
    with pytest.raises(BadInput, match="has no PyTorch, which executes net"):
        build(model, variant=ImageVariant.SERVE)
    assert not (tmp_path / "out").exists()
    files = files_of(tmp_path / "out", build(model))
    assert "opt/headrace/site/torch/__init__.py" in files
    torch = next(one for one in json.loads(files[BILL])["components"] if one["name"] == "torch")
    assert torch["version"].endswith("+cpu")


def test_which_variant_versions_need() -> None:
    assert variant_for({"a": "onnx"}, None) is ImageVariant.SERVE
    assert variant_for({"a": "onnx", "b": "torch"}, None) is ImageVariant.SERVE_TORCH
    assert variant_for({}, ImageVariant.SERVE_TORCH) is ImageVariant.SERVE_TORCH


def test_a_failed_build_leaves_the_tag_and_no_blob(build: Build, tmp_path: Path, wheels: Path) -> None:
    model = onnx_model(tmp_path / "artifacts")
    first = build(model)
    before = blobs(tmp_path / "out")
    # A wheel for another machine, in a version that is wanted.
    (odd,) = wheels.glob("xxhash-*.whl")
    odd.unlink()
    stand_in(wheels, "xxhash", odd.name.split("-")[1], platform="manylinux_2_28_riscv64")
    with pytest.raises(BadInput, match="there is no wheel for"):
        build(model, variant=ImageVariant.SERVE_TORCH)
    assert blobs(tmp_path / "out") == before
    assert Layout(tmp_path / "out").find("v1").digest == first.manifest.digest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_what_a_killed_build_left_goes_and_another_one_is_kept_out(build: Build, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "out")
    layout.prepare()
    left = tmp_path / "out" / ".building-left"
    left.mkdir()
    (left / "blob").write_bytes(b"half")
    with layout.building(), pytest.raises(Conflict, match="another build writes here"):
        build()
    build()
    assert not left.exists()


def test_what_the_tag_named_before_goes_unless_another_needs_it(build: Build, tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "artifacts")
    first = build(model)
    layout = Layout(tmp_path / "out")
    layout.tag(first.manifest, "kept")
    build()
    assert all(layout.is_whole(layer.descriptor) for layer in first.layers)
    layout.tag(layout.find("v1"), "kept")
    weights = next(layer for layer in first.layers if layer.name == "model digits")
    assert not layout.has(weights.descriptor)
    assert layout.is_whole(first.layers[0].descriptor)


def test_a_full_disk_is_told_and_left_as_it_was(build: Build, tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "artifacts")
    with mounted(tmp_path, "700k") as disk:
        with pytest.raises(NoCapacity, match="no space left"):
            build(model, output=disk / "out")
        assert blobs(disk / "out") == set()
        assert Layout(disk / "out").tagged() == []


def test_a_damaged_layer_is_made_again(build: Build, tmp_path: Path) -> None:
    first = build()
    wheels = next(layer for layer in first.layers if layer.name == "wheels")
    path = Layout(tmp_path / "out").path(wheels.descriptor.digest)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    assert build().manifest == first.manifest
    assert path.read_bytes() == whole


def test_what_can_not_be_is_told_before_anything_is_written(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx_model(tmp_path / "artifacts")
    with pytest.raises(NotFound, match="no tag other"):
        build(base=LayoutTag(tmp_path / "base", "other"))
    (model.folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(BadArtifact, match="damaged"):
        build(model)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="no mmdebstrap"):
        build_image(LayoutTag(tmp_path / "out", "v1"), base=None, variant=None, models=[], epoch_s=0, say=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_base_for_another_machine_is_told(build: Build, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is an image for s390x"):
        build(base=small_base(tmp_path / "odd", architecture="s390x"))
    assert blobs(tmp_path / "out") == set()


def test_wheels_that_can_not_be_had_are_told(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_NO_INDEX", "UV_OFFLINE", "UV_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(Unreachable, match="the wheels can't be had"):
        build()
    assert blobs(tmp_path / "out") == set()
