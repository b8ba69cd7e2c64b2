"""What the policy of a node lets be registered and opened."""

from __future__ import annotations

import errno
import logging
import re
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import yaml

import headrace.controller_actor as controller
from cluster.commands.versions import RegisterVersion
from cluster.errors import BadArtifact, BadInput, Unreachable
from deployments.artifacts.manifest import SIGNATURE_FILE, SLSA_FILE
from deployments.artifacts.oci_form import pack
from deployments.artifacts.places import DigestSink
from deployments.keys.ring import VARIABLE
from deployments.oci.layout import Layout
from deployments.oci.references import reference_of
from deployments.oci.registry import ImageRegistry
from deployments.signing.admission import admitted_copy, check_admitted
from deployments.signing.files import bring_signatures, write_beside
from deployments.signing.node_policy import POLICY_VARIABLE
from deployments.signing.policy import SigningMode, SigningPolicy, check_policy, read_policy
from deployments.signing.sign import build_facts, signatures
from tests.support.registries import SmallRegistry
from tests.support.sealed import OwnKeys, sealed_copy
from tests.support.signed import KeyPair, LocalVersion, key_pair, local_version, policy_at

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return key_pair()


def test_without_a_policy_anything_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyPair) -> None:
    unsigned = local_version(tmp_path)
    monkeypatch.delenv(POLICY_VARIABLE, raising=False)
    assert admitted_copy(unsigned.uri, unsigned.digest, "digits") == Path(unsigned.uri)
    for policy in (policy_at(tmp_path / "off.yaml", "off"), policy_at(tmp_path / "p.yaml", "enforce", key, models="fraud-*")):
        monkeypatch.setenv(POLICY_VARIABLE, str(policy))
        assert admitted_copy(unsigned.uri, unsigned.digest, "digits") == Path(unsigned.uri)


def test_enforced_only_what_is_signed_is_registered_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyPair
) -> None:
    unsigned, signed = local_version(tmp_path / "a"), local_version(tmp_path / "b", key, seed=1)
    monkeypatch.setenv(POLICY_VARIABLE, str(policy_at(tmp_path / "p.yaml", "enforce", key)))
    assert admitted_copy(signed.uri, signed.digest, "digits") == Path(signed.uri)
    for version, refused in ((signed, False), (unsigned, True)):
        request = RegisterVersion(
            model="digits",
            artifact_uri=version.uri,
            digest=version.digest,
            engine="onnx",
            signature=version.manifest.signature,
        )
        if refused:
            with pytest.raises(BadArtifact, match=r"refused by the signing policy: it is not signed \(build it with"):
                controller._check_version(request)
            with pytest.raises(BadArtifact, match="it is not signed"):
                admitted_copy(version.uri, version.digest, "digits")
        else:
            controller._check_version(request)


def test_a_warning_is_a_word_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyPair, caplog: pytest.LogCaptureFixture
) -> None:
    unsigned = local_version(tmp_path)
    monkeypatch.setenv(POLICY_VARIABLE, str(policy_at(tmp_path / "p.yaml", "warn", key)))
    with caplog.at_level(logging.WARNING):
        admitted_copy(unsigned.uri, unsigned.digest, "digits")
    (line,) = caplog.messages
    assert "digits" in line
    assert "it is not signed, which the signing policy warns of" in line


def test_a_policy_that_can_not_be_read_lets_nothing_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyPair) -> None:
    signed = local_version(tmp_path, key)
    bad = tmp_path / "p.yaml"
    enforced = "models: ['*'], mode: enforce, keys: [key0.pub]"
    for text in (
        None,
        "kind: Signing\nrules: 3",
        "kind: Access",
        "a: [",
        "kind: Signing\nrules: [{models: [a], mode: enforce}]",
        f"kind: Signing\nrules: [{{{enforced}, since: 2026-11-31T00:00:00Z}}]",  # PyYAML itself fails on these
        f"kind: Signing\nrules: [{{{enforced}, provenance: !!bool perhaps}}]",
        f"kind: Signing\nrules: [{{{enforced}, since: !!timestamp soon}}]",
        f"kind: Signing\nrules: [{{{enforced}}}]\nrules: []",  # the second would take the place of the first
        f"kind: Signing\nrules: [{{{enforced}, mode: off}}]",
        f"kind: Signing\nrules: [{{{enforced}, since: 2026-11-01T00:00:00Z, provenance: false}}]",
    ):
        bad.unlink(missing_ok=True)
        if text is not None:
            bad.write_text(text)
        monkeypatch.setenv(POLICY_VARIABLE, str(bad))
        with pytest.raises(BadInput, match="until then no version is registered or opened"):
            check_admitted(signed.uri, signed.digest, "digits")
    (tmp_path / "key0.pub").write_text("no key")
    bad.write_text("kind: Signing\nrules: [{models: ['*'], mode: enforce, keys: [key0.pub]}]")
    with pytest.raises(BadInput, match="no public key"):
        check_policy(bad)


def test_the_first_rule_that_fits_counts_and_keys_may_stand_in_it(tmp_path: Path, key: KeyPair) -> None:
    file = tmp_path / "p.yaml"
    pem = "".join(f"\n        {line}" for line in key.public_pem.decode().splitlines())
    file.write_text(
        "kind: Signing\nrules:\n  - {models: [lab-*], mode: off}\n"
        f"  - models: ['*']\n    mode: enforce\n    since: 2026-01-01T00:00:00Z\n    keys:\n      - |{pem}\n"
    )
    policy = check_policy(file)
    assert policy == read_policy(file)
    assert policy.rule_for("lab-1") is None
    rule = policy.rule_for("digits")
    assert rule is not None
    assert rule.since is not None


def test_a_signature_goes_by_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyPair) -> None:
    monkeypatch.setenv("HEADRACE_ARTIFACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(POLICY_VARIABLE, str(policy_at(tmp_path / "p.yaml", "enforce", key)))
    with SmallRegistry().serving() as registry:
        for seed, signing in ((0, key), (1, None)):
            version = local_version(tmp_path / str(seed), signing, seed=seed)
            layout = Layout(tmp_path / f"layout{seed}")
            layout.prepare()
            place = f"oci://{registry.host}/team/digits:{seed}"
            with ImageRegistry(reference_of(place, where="here")) as pushed:
                list(pushed.push(layout, pack(layout, Path(version.uri), version.digest)))
            if signing is None:
                with pytest.raises(BadArtifact, match="it is not signed"):
                    check_admitted(place, version.digest, "digits")
                continue
            check_admitted(place, version.digest, "digits")
            copy = admitted_copy(place, version.digest, "digits")
            for name in (SIGNATURE_FILE, SLSA_FILE):
                assert (copy / name).read_bytes() == (Path(version.uri) / name).read_bytes()


def test_a_signature_that_came_later_is_read_where_the_version_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyPair, caplog: pytest.LogCaptureFixture
) -> None:
    """The copy of a version far away was made before."""
    monkeypatch.setenv("HEADRACE_ARTIFACT_CACHE", str(tmp_path / "cache"))
    for module in ("artifacts.fetch", "artifacts.registered", "signing.files"):
        monkeypatch.setattr(
            f"deployments.{module}.remote", lambda uri: (pafs.LocalFileSystem(), uri.removeprefix("far://")), raising=False
        )
    version = local_version(tmp_path / "far")
    far = f"far://{version.uri}"
    copy = admitted_copy(far, version.digest, "digits")
    monkeypatch.setenv(POLICY_VARIABLE, str(policy_at(tmp_path / "p.yaml", "enforce", key)))
    with pytest.raises(BadArtifact, match="it is not signed"):
        admitted_copy(far, version.digest, "digits")
    Path(version.uri).rename(tmp_path / "away")
    with pytest.raises(BadArtifact, match="no manifest"):
        admitted_copy(far, version.digest, "digits")
    monkeypatch.setenv(POLICY_VARIABLE, str(policy_at(tmp_path / "warn.yaml", "warn", key)))
    with caplog.at_level(logging.WARNING):
        assert admitted_copy(far, version.digest, "digits") == copy, "what is here opens, and only a word is said"
    assert "it is not signed, which the signing policy warns of" in caplog.messages[-1]
    (tmp_path / "away").rename(version.uri)
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "p.yaml"))
    facts = build_facts(version.manifest, None)
    write_beside(far, signatures(version.manifest, version.files.manifest, key.private, facts, "digits"))
    check_admitted(far, version.digest, "digits")
    assert admitted_copy(far, version.digest, "digits") == copy
    assert not (copy / SIGNATURE_FILE).exists()
    bring_signatures(far, copy)
    assert (copy / SIGNATURE_FILE).read_bytes() == (Path(version.uri) / SIGNATURE_FILE).read_bytes()
    assert not list(copy.glob(".*"))


def test_of_a_signature_that_can_not_be_written_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as failing:
        failing.setattr(DigestSink, "finish", full)
        with pytest.raises(Unreachable, match="can't be written"):
            write_beside(str(tmp_path), {SIGNATURE_FILE: b"x"})
    assert not list(tmp_path.iterdir())
    (tmp_path / SIGNATURE_FILE).mkdir()  # no file takes its place
    with pytest.raises(Unreachable, match="can't be written"):
        write_beside(str(tmp_path), {SIGNATURE_FILE: b"x"})
    assert [one.name for one in tmp_path.iterdir()] == [SIGNATURE_FILE]


def test_a_sealed_version_is_signed_as_it_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: KeyPair) -> None:
    keys = OwnKeys(tmp_path / "keys", monkeypatch)
    sealed = sealed_copy(Path(local_version(tmp_path / "plain").uri), tmp_path / "sealed", keys.new())
    version = LocalVersion(sealed.uri, sealed.digest, sealed.manifest)
    version.sign(key)
    monkeypatch.setenv(POLICY_VARIABLE, str(policy_at(tmp_path / "p.yaml", "enforce", key)))
    monkeypatch.delenv(VARIABLE)  # who verifies opens nothing
    assert admitted_copy(version.uri, version.digest, "digits") == Path(version.uri)
    (Path(version.uri) / "keys.json").write_bytes((Path(version.uri) / "keys.json").read_bytes() + b" ")
    assert admitted_copy(version.uri, version.digest, "digits") == Path(version.uri)
    report = {
        "source": {"file": "secret.onnx", "sha256": "a" * 64},
        "training": {"function": "secret:fit", "data": {"secret": "b" * 64}},
    }
    facts = build_facts(sealed.manifest, report)
    assert facts.materials == {"source:1": "a" * 64, "training:2": "b" * 64}
    assert "secret" not in str(facts)


def test_the_policy_in_the_docs_is_one() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "signing.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    policy = SigningPolicy.model_validate(yaml.safe_load(text))
    modes = {model: rule.mode if (rule := policy.rule_for(model)) else None for model in ("lab-1", "fraud-eu", "wine")}
    assert modes == {"lab-1": None, "fraud-eu": SigningMode.ENFORCE, "wine": SigningMode.WARN}
    example = SigningPolicy.model_validate(yaml.safe_load((ROOT / "examples/custody/policy/signing.yaml").read_text()))
    assert example.rule_for("wine") is not None
