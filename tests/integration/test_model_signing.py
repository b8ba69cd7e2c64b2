"""OpenSSF's own tool and ours: each verifies what the other has signed, and refuses what was changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deployments.artifacts.manifest import SIGNATURE_FILE
from deployments.signing.examine import SignatureDemand, SignatureFault, examine
from tests.support.signed import KeyPair, LocalVersion, key_pair, local_version

pytestmark = [pytest.mark.proof, pytest.mark.timeout(120)]
TOOL = Path(__file__).parents[2] / ".venv-model-signing" / "bin" / "model_signing"


@pytest.fixture(scope="module")
def key() -> KeyPair:
    if not TOOL.exists():
        pytest.skip("needs OpenSSF's model-signing in a venv of its own: `make model-signing`")
    return key_pair()


def _tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOL, *map(str, words)], capture_output=True, text=True, check=False)


def _verified(version: LocalVersion, key: KeyPair, scratch: Path) -> subprocess.CompletedProcess[str]:
    public = scratch / "release.pub"
    public.write_bytes(key.public_pem)
    signature = Path(version.uri) / SIGNATURE_FILE
    return _tool("verify", "key", version.uri, "--signature", signature, "--public_key", public)


def test_their_tool_verifies_ours(tmp_path: Path, key: KeyPair) -> None:
    version = local_version(tmp_path, key)
    good = _verified(version, key, tmp_path)
    assert good.returncode == 0, good.stderr
    (Path(version.uri) / "keys.json").write_text("[]")  # how a sealed version's key is wrapped is no part of what is signed
    assert _verified(version, key, tmp_path).returncode == 0
    model = Path(version.uri) / "model.onnx"
    model.write_bytes(model.read_bytes() + b"x")
    bad = _verified(version, key, tmp_path)
    assert bad.returncode != 0
    assert "model.onnx" in bad.stderr + bad.stdout


def test_ours_verifies_theirs(tmp_path: Path, key: KeyPair) -> None:
    version = local_version(tmp_path)
    private = tmp_path / "release.key"
    private.write_bytes(key.private_pem)
    signature = Path(version.uri) / SIGNATURE_FILE
    done = _tool("sign", "key", version.uri, "--signature", signature, "--private_key", private)
    assert done.returncode == 0, done.stderr
    demand = SignatureDemand((key.public,), provenance=False)
    found = examine(version.files, version.manifest, "digits", demand)
    assert found.doubts == ()
    assert found.signer == key.public
    other = local_version(tmp_path / "other", seed=1)
    (Path(other.uri) / SIGNATURE_FILE).write_bytes(signature.read_bytes())
    (doubt,) = examine(other.files, other.manifest, "digits", demand).doubts
    assert doubt.fault is SignatureFault.OTHER_VERSION
