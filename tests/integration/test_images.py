"""An image, read and run by tools that are not ours: umoci, crun, skopeo, and a real registry.

crun runs it as user 10001 with a read-only root, in namespaces of its own with a network of loopback alone. Not in cgroups, and
not in a user namespace: where these tests run there may be none that it can use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.commands.documents import ModelDocument
from cluster.errors import BadArtifact
from deployments.images.image import ModelAboard, build_image
from deployments.images.layers import NAME
from deployments.images.layout import Layout, place_of
from deployments.images.registry import ImageRegistry, reference_of
from deployments.images.wheels import ImageVariant
from headrace.local.ports import free_port
from tests.support.models import INPUT, mlp_artifact

TOOLS = ("umoci", "crun", "skopeo", "docker-registry", "mmdebstrap", "unshare", "nsenter")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None] + ([] if os.geteuid() == 0 else ["root"])
pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(480),
    pytest.mark.skipif(
        bool(MISSING) and "HEADRACE_CI" not in os.environ, reason=f"not here: {', '.join(MISSING)}; `make tools` as root"
    ),
]

UNPACKED_MOST_BYTES = 1_000_000_000
NO_CGROUPS = "umount -R -l /sys/fs/cgroup; mount -t tmpfs none /sys/fs/cgroup; exec crun --cgroup-manager=disabled run -b {} {}"
# Asks until the model is ready: the image's model is loaded after the gateway opens.
ASKS = f"""
import json, sys, time, urllib.request
body = json.dumps({{"inputs": [{{"name": "{INPUT}", "shape": [1, 784], "datatype": "FP32", "data": [0.0] * 784}}]}}).encode()
for tries_left in reversed(range(200)):
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8000/v2/models/digits/infer", body, timeout=10).read().decode())
        sys.exit(0)
    except OSError:
        if not tries_left:
            raise
        time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A layout with the image `one`, with a model."""
    folder = tmp_path_factory.mktemp("images")
    uri, digest, _ = mlp_artifact(folder / "artifacts")
    model = ModelAboard("digits", Path(uri), digest, ModelDocument(name="digits").model_dump_json().encode())
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


def test_it_runs_as_10001_with_a_read_only_root_and_ends_with_0_when_told(layout: Layout, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    _bundle(layout, bundle, tmp_path / "home")
    unpacked = sum(path.lstat().st_size for path in (bundle / "rootfs").rglob("*") if path.is_file() and not path.is_symlink())
    assert unpacked < UNPACKED_MOST_BYTES
    name = f"headrace-{uuid.uuid4().hex[:8]}"
    lines: list[str] = []
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", NO_CGROUPS.format(bundle, name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as container:
        assert container.stdout is not None
        deadline = threading.Timer(300, container.kill)
        deadline.start()
        try:
            for line in container.stdout:
                lines.append(line)
                if "served as the image says" in line:
                    break
            assert "served as the image says" in lines[-1], "".join(lines)
            state = json.loads(subprocess.run(["crun", "state", name], check=True, capture_output=True).stdout)
            asked = subprocess.run(
                ["nsenter", "-t", str(state["pid"]), "-n", sys.executable, "-c", ASKS], check=True, capture_output=True, text=True
            )
            assert json.loads(asked.stdout)["model_version"] == "1"
            subprocess.run(["crun", "kill", name, "TERM"], check=True)
            lines += container.stdout.readlines()
            assert container.wait(timeout=120) == 0, "".join(lines)
        finally:
            deadline.cancel()
            subprocess.run(["crun", "delete", "--force", name], check=False, capture_output=True)
    assert any("ended" in line for line in lines[-3:])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback: its HOST:PORT."""
    host = f"127.0.0.1:{free_port()}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\nhttp: {{addr: '{host}'}}\n"
    )
    with subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        pause = threading.Event()
        for _ in range(100):
            try:
                httpx.get(f"http://{host}/v2/", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                pause.wait(0.1)
        yield host
        server.terminate()


def test_a_registry_has_it_to_the_byte_and_a_damaged_one_is_not_sent(layout: Layout, registry: str) -> None:
    one = layout.find("one")
    with ImageRegistry(reference_of(f"{registry}/team/digits:1", where="to")) as pushing:
        assert all(sent for _, sent in pushing.push(layout, one))
    seen = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/team/digits:1"], check=True, capture_output=True
    )
    assert json.loads(seen.stdout)["Digest"] == one.digest
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
