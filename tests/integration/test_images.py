"""An image, read and run by tools that are not ours: umoci, crun, skopeo, podman, and a real registry.

crun runs it as user 10001 with a read-only root, in namespaces of its own with a network of loopback alone. Callers and a real
Kafka come into that network (nsenter): the container reaches nothing else. Not in cgroups, and not in a user namespace: where
these tests run there may be none that it can use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from cluster.commands.documents import ModelDocument
from cluster.errors import BadArtifact
from deployments.artifacts.manifest import verify
from deployments.artifacts.oci_form import pack
from deployments.images.base import here
from deployments.images.image import ModelAboard, build_image
from deployments.images.variants import ImageVariant
from deployments.images.wheels import BACKEND, install, resolve
from deployments.oci.layers import NAME
from deployments.oci.layout import Layout
from deployments.oci.references import place_of, reference_of
from deployments.oci.registry import ImageRegistry
from headrace.local.broker import stop_broker
from tests.support.contained import Found, Work
from tests.support.models import INPUT, slow_artifact
from tests.support.registries import real_registry
from tests.support.torch_models import mlp_program
from tests.support.waiting import until

TOOLS = ("umoci", "crun", "skopeo", "podman", "docker-registry", "mmdebstrap", "unshare", "nsenter")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None] + ([] if os.geteuid() == 0 else ["root"])
pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(480),
    pytest.mark.skipif(
        bool(MISSING) and "HEADRACE_CI" not in os.environ, reason=f"not here: {', '.join(MISSING)}; `make tools` as root"
    ),
]

EXECUTES = """
import json, sys
sys.path[:0] = {paths}
from pathlib import Path
import numpy as np, torch
from deployments.engines.load import load_engine
(answer,) = load_engine(Path("{uri}")).score({{"{name}": np.zeros({shape}, np.float32)}}).values()
print(json.dumps([torch.__file__, answer.shape]))
"""
UNPACKED_MOST_BYTES = 1_000_000_000
NO_CGROUPS = "umount -R -l /sys/fs/cgroup; mount -t tmpfs none /sys/fs/cgroup; exec crun --cgroup-manager=disabled run -b {} {}"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A layout with the image `one`, with a model."""
    folder = tmp_path_factory.mktemp("images")
    uri, digest, _ = slow_artifact(folder / "artifacts")
    document = ModelDocument.model_validate({"name": "digits", "serving": {"resources": {"cpus": 0.1}}})
    model = ModelAboard("digits", Path(uri), digest, document.model_dump_json().encode())
    place = place_of(f"oci:{folder}/layout:one", option="--output")
    first = build_image(place, base=None, variant=ImageVariant.SERVE, models=[model], epoch_s=0, say=lambda _: None)
    # Elsewhere, of the same base: nothing is reused but the base, and all digests are the same.
    base = place_of(f"oci:{folder}/layout:headrace-base", option="--base")
    again = place_of(f"oci:{folder}/again:two", option="--output")
    second = build_image(again, base=base, variant=ImageVariant.SERVE, models=[model], epoch_s=0, say=lambda _: None)
    assert second.manifest == first.manifest
    return Layout(place.folder)


def _bundle(layout: Layout, bundle: Path, home: Path) -> None:
    subprocess.run(["umoci", "unpack", "--image", f"{layout.folder}:one", str(bundle)], check=True, capture_output=True)
    home.mkdir(mode=0o700)
    os.chown(home, 10001, 10001)
    config = json.loads((bundle / "config.json").read_text())
    assert (config["process"]["user"]["uid"], config["process"]["user"]["gid"]) == (10001, 10001)
    config["process"]["terminal"] = False
    config["root"]["readonly"] = True
    config["linux"].pop("resources", None)
    kept = [one for one in config["linux"]["namespaces"] if one["type"] not in ("cgroup", "user")]
    config["linux"]["namespaces"] = kept
    writable = {"/tmp": None, "/dev/shm": None, "/var/lib/headrace": home}  # noqa: S108 (in the container)
    config["mounts"] = [one for one in config["mounts"] if one["type"] != "cgroup" and one["destination"] not in writable]
    for place, source in writable.items():
        config["mounts"].append(
            {"destination": place, "type": "bind", "source": str(source), "options": ["bind", "rw"]}
            if source
            else {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}
        )
    config["process"]["args"] += ["--num-cpus", "2"]
    (bundle / "config.json").write_text(json.dumps(config))


def test_it_answers_and_streams_read_only_and_ends_with_nothing_lost(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    _bundle(layout, bundle, tmp_path / "home")
    unpacked = sum(path.lstat().st_size for path in (bundle / "rootfs").rglob("*") if path.is_file() and not path.is_symlink())
    assert unpacked < UNPACKED_MOST_BYTES
    name = f"headrace-{uuid.uuid4().hex[:8]}"
    log = tmp_path / "container.log"
    begun_s = time.monotonic()
    with log.open("wb") as out:
        command = ["unshare", "-m", "sh", "-c", NO_CGROUPS.format(bundle, name)]
        container = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: _pid_of(name) != 0 or container.poll() is not None, 30)
        (artifact,) = (bundle / "rootfs/opt/headrace/models/digits").glob("*/manifest.json")
        work = Work(name, _pid_of(name), str(tmp_path / "home"), str(artifact.parent), str(tmp_path / "broker"))
        found, first_s = _put_through(work, begun_s)
        status = container.wait(timeout=120)
    finally:
        subprocess.run(["crun", "delete", "--force", name], check=False, capture_output=True)
        container.wait(timeout=30)
        stop_broker(tmp_path / "broker")
    with capsys.disabled():
        sys.stdout.write(f"\nimage: {unpacked / 1e6:,.0f} MB unpacked; first answer after {first_s:.1f} s; {found}\n")
    said = log.read_text()
    assert status == 0, said
    assert "ended" in said.splitlines()[-1]
    assert found.interfaces == ["lo"]
    assert found.same_answers
    assert (found.failed, found.doubled, found.lost, found.uncommitted) == ([], 0, 0, 0), said
    # It was told in the midst of calls, and of records that kept coming.
    assert found.in_flight > 0
    assert found.left > 0


def _pid_of(container: str) -> int:
    """Of its first process; 0 where it does not run."""
    told = subprocess.run(["crun", "state", container], check=False, capture_output=True)
    return int(json.loads(told.stdout)["pid"]) if told.returncode == 0 else 0


def _put_through(work: Work, begun_s: float) -> tuple[Found, float]:
    """What came of it, and the seconds until the first answer."""
    command = ["nsenter", "-t", str(work.pid), "-n", sys.executable, "-m", "tests.support.contained"]
    with subprocess.Popen([*command, json.dumps(asdict(work))], stdout=subprocess.PIPE, text=True) as driver:
        end = threading.Timer(300, driver.kill)
        end.start()
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "answered\n"
            first_s = time.monotonic() - begun_s
            return Found(**json.loads(driver.stdout.read())), first_s
        finally:
            end.cancel()
            driver.kill()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback: its HOST:PORT."""
    with real_registry(tmp_path / "registry") as running:
        yield running.host


@contextmanager
def _pulled_by_podman(image: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The digest of what podman has, once it has pulled the image into a store of its own, and its files."""
    # podman bears no runroot of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="hr-") as run:
        yield from _pulled(image, ["podman", "--root", str(folder / "store"), "--runroot", run, "--storage-driver", "vfs"])


def _pulled(image: str, podman: list[str]) -> Iterator[tuple[str, Path]]:
    try:
        subprocess.run([*podman, "pull", "--quiet", "--tls-verify=false", image], check=True, capture_output=True)
        told = subprocess.run([*podman, "image", "inspect", image], check=True, capture_output=True)
        at = subprocess.run([*podman, "image", "mount", image], check=True, capture_output=True, text=True)
        yield str(json.loads(told.stdout)[0]["Digest"]), Path(at.stdout.strip())
    finally:
        # vfs unpacks every layer whole: a gigabyte each.
        subprocess.run([*podman, "image", "umount", "--force", image], check=False, capture_output=True)
        subprocess.run([*podman, "rmi", "--force", image], check=True, capture_output=True)


def test_kubernetes_and_podman_read_a_model_as_an_image(registry: str, tmp_path: Path) -> None:
    uri, digest, _ = slow_artifact(tmp_path / "artifacts")
    layout = Layout(tmp_path / "layout")
    layout.prepare()
    with ImageRegistry(reference_of(f"{registry}/team/digits:1", where="to")) as pushing:
        list(pushing.push(layout, pack(layout, Path(uri), digest)))
    with _pulled_by_podman(f"{registry}/team/digits:1", tmp_path) as (_, files):
        assert verify(files / "models", digest).model == "digits"
    told = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry}/team/digits:1"],
        check=True,
        capture_output=True,
    )
    kinds = [one.get("artifactType") or one["platform"]["architecture"] for one in json.loads(told.stdout)["manifests"]]
    assert kinds == ["amd64", "arm64", "application/vnd.cncf.model.manifest.v1+json"]


def test_a_registry_and_podman_have_it_to_the_byte_and_a_damaged_one_is_not_sent(
    layout: Layout, registry: str, tmp_path: Path
) -> None:
    one = layout.find("one")
    with ImageRegistry(reference_of(f"{registry}/team/digits:1", where="to")) as pushing:
        assert all(sent for _, sent in pushing.push(layout, one))
    seen = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/team/digits:1"], check=True, capture_output=True
    )
    assert json.loads(seen.stdout)["Digest"] == one.digest
    with _pulled_by_podman(f"{registry}/team/digits:1", tmp_path) as (digest, _):
        assert digest == one.digest
    with ImageRegistry(reference_of(f"{registry}/team/digits:2", where="to")) as pushing:
        assert not any(sent for _, sent in pushing.push(layout, one))

    layer = next(each for each in layout.document(one)["layers"] if each["annotations"][NAME] == "model digits")
    path = layout.path(layer["digest"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    try:
        with (
            ImageRegistry(reference_of(f"{registry}/team/digits:bad", where="to")) as pushing,
            pytest.raises(BadArtifact, match="damaged"),
        ):
            list(pushing.push(layout, one))
    finally:
        path.write_bytes(whole)
    assert httpx.get(f"http://{registry}/v2/team/digits/manifests/bad", trust_env=False).status_code == 404


def test_the_wheels_of_serve_torch_execute_a_pytorch_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch as the package index has it: its own index may be out of reach here.
    monkeypatch.setenv(BACKEND, "")
    pins = resolve(ImageVariant.SERVE_TORCH, python_minor=sys.version_info.minor, architecture=here())
    install(pins, tmp_path / "wheels")
    uri, _, _ = mlp_program(tmp_path / "artifacts")
    # A Python that has nothing but these wheels and our code, as in the image.
    paths = [str(tmp_path / "wheels" / "site"), str(Path(__file__).parents[2])]
    program = EXECUTES.format(paths=paths, uri=uri, shape=(2, 784), name=INPUT)
    told = subprocess.run(
        [Path(sys.base_prefix) / "bin/python3", "-I", "-c", program], check=True, capture_output=True, text=True
    )
    place, shape = json.loads(told.stdout)
    assert place.startswith(paths[0])
    assert shape == [2, 10]
