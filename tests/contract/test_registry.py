"""What a registry is asked for, of Debian's and of the small one that other tests use: versions go there and come back whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import BadArtifact, NotFound, Unauthenticated
from deployments.artifacts.fetch import localize, remove
from deployments.artifacts.manifest import verify
from deployments.artifacts.oci_form import WEIGHT_TYPE, pack, write_forms
from deployments.artifacts.oci_place import look_up, pull
from deployments.artifacts.profile import fetch_profile, read_profile
from deployments.artifacts.registered import check_registered
from deployments.images.base import here
from deployments.oci.descriptors import Descriptor
from deployments.oci.layout import Layout
from deployments.oci.references import reference_of
from deployments.oci.registry import ImageRegistry
from tests.support.models import mlp_artifact
from tests.support.registries import RunningRegistry, SmallRegistry, logged_in, real_registry
from tests.support.small_image import small_base


@pytest.fixture(scope="module", params=["small", "real"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    serving = SmallRegistry().serving() if request.param == "small" else real_registry(tmp_path_factory.mktemp("registry"))
    with serving as running:
        yield running


@pytest.fixture(params=["small", "real"])
def locked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningRegistry]:
    serving = (
        SmallRegistry(login="basic").serving() if request.param == "small" else real_registry(tmp_path / "registry", login=True)
    )
    with serving as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def sent(running: RunningRegistry, folder: Path, name: str, *, seed: int = 0, environment: dict[str, str] | None = None) -> str:
    """The digest of a version that is there as `name:1`; its files are in `folder`."""
    uri, digest, _ = mlp_artifact(folder / "artifacts", seed=seed)
    push(running, Path(uri), digest, name, folder / "layout", environment)
    return digest


def push(
    running: RunningRegistry, files: Path, digest: str, name: str, folder: Path, environment: dict[str, str] | None = None
) -> list[bool]:
    """Whether each blob was sent."""
    layout = Layout(folder)
    layout.prepare()
    index = pack(layout, files, digest)
    with ImageRegistry(reference_of(f"{running.host}/{name}:1", where="to"), environment=environment) as pushing:
        return [was_sent for _, was_sent in pushing.push(layout, index)]


def test_a_version_goes_there_and_comes_back(registry: RunningRegistry, tmp_path: Path, cache: Path) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path / "artifacts", profiled=50)
    assert any(push(registry, Path(uri), digest, "team/digits", tmp_path / "layout"))
    assert not any(push(registry, Path(uri), digest, "team/digits", tmp_path / "layout"))
    place = f"oci://{registry.host}/team/digits:1"
    check_registered(place, digest, "onnx", manifest.signature)
    shipped = look_up(place)
    for where in (place, shipped.uri):
        assert verify(localize(where, digest, cache=cache), digest) == manifest
        shutil.rmtree(cache)
    profile, its = fetch_profile(place, digest), read_profile(Path(uri))
    assert profile is not None
    assert its is not None
    assert profile.summary == its.summary
    assert pull(shipped, tmp_path / "pulled") == tmp_path / "pulled" / digest
    remove(place)  # others pull from there
    assert look_up(place) == shipped


def test_the_same_version_is_the_same_to_the_byte(tmp_path: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path / "artifacts")
    packed = []
    for name in ("one", "two"):
        layout = Layout(tmp_path / name)
        layout.prepare()
        packed.append(pack(layout, Path(uri), digest))
    assert packed[0] == packed[1]


def test_a_damaged_layer_is_refused_and_nothing_of_it_stays(registry: RunningRegistry, tmp_path: Path, cache: Path) -> None:
    digest = sent(registry, tmp_path, "team/damaged", seed=1)
    place = f"oci://{registry.host}/team/damaged:1"
    shipped = look_up(place)
    (weights,) = [layer for layer in shipped.layers if layer.media_type == WEIGHT_TYPE]
    registry.damage(weights.digest)
    with pytest.raises(BadArtifact, match="damaged in the registry"):
        localize(place, digest, cache=cache)
    assert list(cache.iterdir()) == []
    with pytest.raises(BadArtifact, match="damaged in the registry"):
        pull(shipped, tmp_path / "pulled")
    assert list((tmp_path / "pulled").iterdir()) == []


def test_a_changed_model_is_refused_though_its_registry_finds_it_whole(
    registry: RunningRegistry, tmp_path: Path, cache: Path
) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path / "artifacts", seed=2)
    model = Path(uri) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    layout = Layout(tmp_path / "layout")
    layout.prepare()
    index = write_forms(layout, Path(uri), manifest, digest)
    with ImageRegistry(reference_of(f"{registry.host}/team/changed:1", where="to")) as pushing:
        list(pushing.push(layout, index))
    with pytest.raises(BadArtifact, match=r"model\.onnx is damaged"):
        localize(f"oci://{registry.host}/team/changed:1", digest, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_tag_that_has_moved_is_told(registry: RunningRegistry, tmp_path: Path, cache: Path) -> None:
    first = sent(registry, tmp_path, "team/moving", seed=3)
    stays = look_up(f"oci://{registry.host}/team/moving:1").uri
    second = sent(registry, tmp_path, "team/moving", seed=4)
    with pytest.raises(BadArtifact, match="another version than the registered one"):
        localize(f"oci://{registry.host}/team/moving:1", first, cache=cache)
    verify(localize(stays, first, cache=cache), first)
    verify(localize(f"oci://{registry.host}/team/moving:1", second, cache=cache), second)


def test_what_is_not_there_is_told(registry: RunningRegistry, cache: Path) -> None:
    with pytest.raises(NotFound, match="the registry has none"):
        localize(f"oci://{registry.host}/team/nothing:1", "0" * 64, cache=cache)


def test_a_login_is_asked_for_and_the_noted_one_taken(
    locked: RunningRegistry, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(Unauthenticated, match="asks for a login") as refused:
        sent(locked, tmp_path, "team/digits")
    assert f"skopeo login {locked.host}" in refused.value.remedy
    for name, value in logged_in(tmp_path, locked.host).items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(tmp_path / "artifacts")
    digest = sent(locked, tmp_path, "team/digits")
    verify(localize(f"oci://{locked.host}/team/digits:1", digest, cache=cache), digest)


def test_on_a_base_it_is_an_image_for_the_bases_machine(registry: RunningRegistry, tmp_path: Path, cache: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path / "artifacts", seed=5)
    layout = Layout(tmp_path / "layout")
    layout.prepare()
    base = small_base(tmp_path / "base")
    index = pack(layout, Path(uri), digest, base)
    image, modelpack = layout.document(index)["manifests"]
    assert image["platform"] == {"architecture": here(), "os": "linux"}
    its, bare = (layout.document(Descriptor.read(one, "index"))["layers"] for one in (image, modelpack))
    below = Layout(base.folder).document(Layout(base.folder).find(base.tag))["layers"]
    assert [one["digest"] for one in its] == [one["digest"] for one in (*below, *bare)]
    with ImageRegistry(reference_of(f"{registry.host}/team/based:1", where="to")) as pushing:
        list(pushing.push(layout, index))
    verify(localize(f"oci://{registry.host}/team/based:1", digest, cache=cache), digest)
