"""A registry that breaks off, refuses, or asks for a token: the tag stays as it was, and a second try sends what is left."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from cluster.errors import BadArtifact, BadInput, NoCapacity, NotFound, Unauthenticated, Unreachable
from deployments.artifacts.fetch import localize
from deployments.artifacts.oci_form import DIGEST, MODELPACK_TYPE, SETTINGS_TYPE, SIZES, pack
from deployments.artifacts.oci_place import look_up, pull
from deployments.oci.descriptors import INDEX_TYPE, MANIFEST_TYPE, Descriptor, encoded
from deployments.oci.image_files import add_image
from deployments.oci.layers import LayerEntry, write_layer
from deployments.oci.layout import DOCUMENT_MOST_BYTES, Layout
from deployments.oci.references import reference_of
from deployments.oci.registry import ImageRegistry
from tests.support.models import mlp_artifact
from tests.support.registries import RunningRegistry, SmallRegistry, logged_in
from tests.support.small_disk import mounted


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """With an image `one` of three layers."""
    layout = Layout(tmp_path / "layout")
    layout.prepare()
    layers = [write_layer(layout, name, [LayerEntry(name, name.encode() * 1000)]) for name in ("a", "b", "c")]
    config = {"rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}}
    layout.tag(add_image(layout, config, [layer.descriptor for layer in layers], {}), "one")
    return layout


def push(running: RunningRegistry, layout: Layout, environment: dict[str, str] | None = None) -> list[bool]:
    """Whether each blob was sent."""
    return [sent for _, sent in pushing(running, layout, layout.find("one"), environment)]


def pushing(
    running: RunningRegistry, layout: Layout, one: Descriptor, environment: dict[str, str] | None
) -> list[tuple[Descriptor, bool]]:
    with ImageRegistry(reference_of(f"{running.host}/team/x:1", where="to"), environment=environment or {}) as registry:
        return list(registry.push(layout, one))


def has_tag(running: RunningRegistry) -> bool:
    with ImageRegistry(reference_of(f"{running.host}/team/x:1", where="to"), environment={}) as registry:
        try:
            registry.manifest()
        except NotFound:
            return False
        return True


def test_one_that_breaks_off_half_way_has_no_tag_and_gets_the_rest_later(layout: Layout) -> None:
    kept = SmallRegistry(breaks_at=2)
    with kept.serving() as running:
        with pytest.raises(Unreachable, match="broke off") as told:
            push(running, layout)
        assert "what is there already is not sent twice" in told.value.remedy
        assert not has_tag(running)
        assert push(running, layout) == [False, False, True, True]
        assert has_tag(running)


def test_one_that_refuses_the_manifest_has_no_tag(layout: Layout) -> None:
    kept = SmallRegistry(refuses_manifests=True)
    with kept.serving() as running:
        with pytest.raises(Unreachable, match="answered 500 to PUT: what was sent is not tagged"):
            push(running, layout)
        assert not has_tag(running)
        kept.refuses_manifests = False
        assert not any(push(running, layout))
        assert has_tag(running)


def test_a_token_is_fetched_with_the_noted_login(layout: Layout, tmp_path: Path) -> None:
    with SmallRegistry(login="bearer").serving() as running:
        with pytest.raises(Unauthenticated, match="asks for a login"):
            push(running, layout)
        assert all(push(running, layout, logged_in(tmp_path, running.host)))


def test_a_file_of_logins_that_is_none_is_told(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text("{")
    with SmallRegistry().serving() as running, pytest.raises(BadInput, match="is no file of logins"):
        push(running, layout, {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")})


def test_an_image_is_no_version(layout: Layout) -> None:
    with SmallRegistry().serving() as running:
        push(running, layout)
        with pytest.raises(BadArtifact, match="is no version of a model"):
            look_up(f"oci://{running.host}/team/x:1")


def test_a_manifest_without_end_is_refused() -> None:
    kept = SmallRegistry()
    with kept.serving() as running:
        kept.manifests["/v2/team/x/manifests/1"] = INDEX_TYPE, b" " * (DOCUMENT_MOST_BYTES + 1)
        with pytest.raises(BadArtifact, match="too large for a document"):
            look_up(f"oci://{running.host}/team/x:1")


def _tar(name: str, content: bytes, **headers: str) -> bytes:
    packed, info = io.BytesIO(), tarfile.TarInfo(name)
    info.size, info.pax_headers = len(content), headers
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def _sparse(size: str) -> bytes:
    """A file of that size, of which 1 KiB is there."""
    told = {"major": "1", "minor": "0", "name": "models/model.sig", "realsize": size}
    content = b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512
    return _tar("models/sparse", content, **{f"GNU.sparse.{key}": value for key, value in told.items()})


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (_tar("models/manifest.json", b"x" * 5000)[:2000], "a layer is damaged"),
        (_sparse(str(1 << 40)), "holds what is no file of a version"),
        (_sparse("many"), "a layer is damaged"),
    ],
)
def test_a_layer_that_is_cut_or_grows_without_end_is_refused(tmp_path: Path, layer: bytes, says: str) -> None:
    """Whoever pushed it made its digest fit: the controller reads it as it registers the version."""
    layout = Layout(tmp_path / "layout")
    layout.prepare()
    sizes = {SIZES: '{"manifest.json": 1}'}
    document = {
        "artifactType": MODELPACK_TYPE,
        "mediaType": MANIFEST_TYPE,
        "config": layout.add(b"{}", MODELPACK_TYPE).document(),
        "layers": [layout.add(layer, SETTINGS_TYPE, sizes).document()],
        "annotations": {DIGEST: "0" * 64},
    }
    with SmallRegistry().serving() as running:
        pushing(running, layout, layout.add(encoded(document), MANIFEST_TYPE), None)
        with pytest.raises(BadArtifact, match=says):
            look_up(f"oci://{running.host}/team/x:1")


@pytest.mark.parametrize(
    "told",
    [
        {"annotations": ["x"]},
        {"layers": 3},
        {"layers": [{"mediaType": "x", "digest": f"sha256:{'0' * 64}", "size": 1, "annotations": {SIZES: "[" * 100_000}}]},
        {"layers": [{"mediaType": "x", "digest": f"sha256:{'0' * 64}", "size": 1, "annotations": {SIZES: '{"a": 1e999}'}}]},
    ],
)
def test_a_manifest_of_strange_kinds_is_no_version(told: dict[str, object]) -> None:
    kept = SmallRegistry()
    document = {"artifactType": MODELPACK_TYPE, "annotations": {DIGEST: "0" * 64}, "layers": []} | told
    with kept.serving() as running:
        kept.manifests["/v2/team/x/manifests/1"] = MANIFEST_TYPE, encoded(document)
        with pytest.raises(BadArtifact, match="is no version of a model"):
            look_up(f"oci://{running.host}/team/x:1")


@pytest.mark.parametrize("uri", ["oci://", "oci://host", "oci://host/Name:1", "oci://host/name", "oci://host/name@sha256:1"])
def test_what_names_nothing_in_a_registry_is_told(uri: str) -> None:
    with pytest.raises(BadInput, match="names nothing in a registry"):
        look_up(uri)


def test_nobody_there_is_told() -> None:
    with pytest.raises(Unreachable, match="can't be reached"):
        look_up("oci://127.0.0.1:9/name:1")


def test_a_full_disk_is_told_and_nothing_of_a_pull_stays(tmp_path: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path / "artifacts")
    layout = Layout(tmp_path / "layout")
    layout.prepare()
    with SmallRegistry().serving() as running, mounted(tmp_path, "200k") as disk:
        pushing(running, layout, pack(layout, Path(uri), digest), None)
        place = f"oci://{running.host}/team/x:1"
        with pytest.raises(NoCapacity, match="no space left"):
            pull(look_up(place), disk / "pulled")
        assert list((disk / "pulled").iterdir()) == []
        with pytest.raises(NoCapacity):
            localize(place, digest, cache=disk / "cache")
        assert list((disk / "cache").iterdir()) == []
        small = Layout(disk / "layout")
        small.prepare()
        with pytest.raises(NoCapacity, match="no space left"):
            pack(small, Path(uri), digest)
