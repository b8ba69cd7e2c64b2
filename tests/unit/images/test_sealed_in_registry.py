"""A sealed version goes by a registry and into an image as it is, with the keys that it is sealed for."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.artifacts.fetch import localize
from deployments.artifacts.manifest import KEYS, verify
from deployments.artifacts.oci_form import pack
from deployments.artifacts.oci_place import look_up, pull
from deployments.artifacts.profile import fetch_profile
from deployments.artifacts.registered import check_registered
from deployments.artifacts.sealing.rewrapping import rewrap
from deployments.artifacts.version_files import open_folder, open_version
from deployments.engines.load import load_engine
from deployments.images.image import ModelAboard, _inputs
from deployments.keys.ring import KeyRing
from deployments.oci.layout import Layout
from deployments.oci.references import reference_of
from deployments.oci.registry import ImageRegistry
from tests.support.models import SIGNATURE, mlp_artifact
from tests.support.registries import SmallRegistry
from tests.support.sealed import OwnKeys, sealed_copy


def test_it_comes_back_sealed_and_another_key_sends_its_keys_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = OwnKeys(tmp_path / "keys", monkeypatch)
    sealed = sealed_copy(Path(mlp_artifact(tmp_path / "plain", profiled=50)[0]), tmp_path / "sealed", keys.new("old"))
    folder = Path(sealed.uri)
    with SmallRegistry().serving() as registry:

        def pushed(name: str) -> int:
            """How many blobs were sent."""
            layout = Layout(tmp_path / name)
            layout.prepare()
            with ImageRegistry(reference_of(f"{registry.host}/team/digits:1", where="to")) as client:
                return sum(sent for _, sent in client.push(layout, pack(layout, folder, sealed.digest)))

        assert pushed("first") > 5
        uri = f"oci://{registry.host}/team/digits:1"
        check_registered(uri, sealed.digest, "onnx", SIGNATURE)
        copy = localize(uri, sealed.digest, cache=tmp_path / "cache")
        assert verify(copy, sealed.digest) == sealed.manifest
        load_engine(open_folder(copy, sealed.digest))
        assert fetch_profile(uri, sealed.digest) is not None

        aboard = ModelAboard("digits", folder, sealed.digest, b"{}")
        before = _inputs(aboard)
        rewrap(open_folder(folder), [keys.new("new")], KeyRing.from_environment())
        assert _inputs(aboard) != before, "an image's layer holds the keys too"
        pulled = pull(look_up(uri), tmp_path / "pulled")
        assert pushed("second") <= 6  # keys, configurations and manifests: no file of the version
        sealed_for = (folder / KEYS).read_bytes()
        assert localize(uri, sealed.digest, cache=tmp_path / "cache") == copy
        assert pull(look_up(uri), tmp_path / "pulled") == pulled
        for place in (copy, pulled):
            assert (place / KEYS).read_bytes() == sealed_for, "a copy that was there learns of the keys that were pushed"
        assert not list(pulled.glob(".*"))
        assert look_up(uri).digest == sealed.digest
        assert open_version(uri, sealed.digest).seal_keys().content == (folder / KEYS).read_bytes()
