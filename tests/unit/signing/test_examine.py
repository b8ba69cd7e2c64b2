"""What a signature is held against: the very files, the version, its model, and who may have signed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cluster.errors import BadInput
from deployments.artifacts.manifest import MANIFEST, SIGNATURE_FILE, SLSA_FILE
from deployments.signing.bundle import bundled, parse_bundle
from deployments.signing.examine import SignatureDemand, SignatureFault, SignatureFindings, examine
from deployments.signing.keys import signing_key, trusted_key
from deployments.signing.sign import build_facts
from deployments.signing.statements import files_statement, read_provenance, signed_digests
from tests.support.signed import KeyPair, LocalVersion, key_pair, local_version


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return key_pair()


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, key: KeyPair) -> LocalVersion:
    return local_version(tmp_path_factory.mktemp("signed"), key)


def _of(version: LocalVersion, key: KeyPair, model: str = "digits") -> SignatureFindings:
    return examine(version.files, version.manifest, model, SignatureDemand((key.public,)))


def _faults(found: SignatureFindings) -> list[SignatureFault]:
    return [doubt.fault for doubt in found.doubts]


def test_what_its_key_has_signed_holds(version: LocalVersion, key: KeyPair) -> None:
    found = _of(version, key)
    assert found.doubts == ()
    assert found.signer == key.public
    assert found.provenance is not None
    assert (found.provenance.model, found.provenance.digest) == ("digits", version.digest)
    signed = parse_bundle(version.files.signature or b"")
    assert signed is not None
    digests = signed_digests(signed.payload) or {}
    assert set(digests) == {entry.path for entry in version.manifest.files} | {MANIFEST}


def test_an_unsigned_version_says_how_to_sign_it(tmp_path: Path, key: KeyPair) -> None:
    (doubt,) = _of(local_version(tmp_path), key).doubts
    assert doubt.fault is SignatureFault.UNSIGNED
    assert "--sign KEY" in doubt.remedy


def test_another_key_is_not_trusted(version: LocalVersion) -> None:
    found = _of(version, key_pair())
    assert _faults(found) == [SignatureFault.UNTRUSTED] * 2
    assert found.signer is None


def test_an_older_versions_signature_proves_nothing_of_another(tmp_path: Path, version: LocalVersion, key: KeyPair) -> None:
    newer = local_version(tmp_path, seed=1)
    for name in (SIGNATURE_FILE, SLSA_FILE):
        (Path(newer.uri) / name).write_bytes((Path(version.uri) / name).read_bytes())
    found = _of(newer, key)
    assert _faults(found) == [SignatureFault.OTHER_VERSION] * 2
    assert "is not what was signed" in found.doubts[0].what


def test_a_version_of_one_model_is_none_of_another(tmp_path: Path, version: LocalVersion, key: KeyPair) -> None:
    found = _of(version, key, model="letters")
    assert _faults(found) == [SignatureFault.OTHER_MODEL]
    again = local_version(tmp_path)
    again.sign(key, "letters")
    assert _of(again, key, model="letters").doubts == ()


def test_a_changed_statement_is_seen(version: LocalVersion, key: KeyPair) -> None:
    bundle = json.loads(version.files.signature or b"")
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"digits"', b'"letter"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    files = replace(version.files, signature=json.dumps(bundle).encode())
    found = examine(files, version.manifest, "digits", SignatureDemand((key.public,)))
    assert _faults(found) == [SignatureFault.FORGED]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"\xff\xfe", b'{"mediaType": "x"}'])
def test_what_is_no_signature_is_told(version: LocalVersion, key: KeyPair, content: bytes) -> None:
    for files in (replace(version.files, signature=content), replace(version.files, provenance=content)):
        found = examine(files, version.manifest, "digits", SignatureDemand((key.public,)))
        assert _faults(found) == [SignatureFault.UNREADABLE]


def test_a_statement_of_a_part_of_the_files_is_refused(version: LocalVersion, key: KeyPair) -> None:
    some = {entry.path: entry.sha256 for entry in version.manifest.files[:1]} | {MANIFEST: version.digest}
    files = replace(version.files, signature=bundled(files_statement("digits", some), key.private))
    found = examine(files, version.manifest, "digits", SignatureDemand((key.public,)))
    assert _faults(found) == [SignatureFault.OTHER_VERSION]
    assert "was not signed" in found.doubts[0].what


def test_without_provenance_the_files_are_bound_by_their_manifest(version: LocalVersion, key: KeyPair) -> None:
    alone = replace(version.files, provenance=None)
    missing = examine(alone, version.manifest, "digits", SignatureDemand((key.public,)))
    assert _faults(missing) == [SignatureFault.UNSIGNED]
    demand = SignatureDemand((key.public,), provenance=False)
    assert examine(alone, version.manifest, "digits", demand).doubts == ()
    assert _faults(examine(alone, version.manifest, "letters", demand)) == [SignatureFault.OTHER_MODEL]


def test_signatures_of_before_a_time_do_not_count(version: LocalVersion, key: KeyPair) -> None:
    now = datetime.now(UTC)
    for since, faults in ((now - timedelta(hours=1), []), (now + timedelta(hours=1), [SignatureFault.TOO_OLD])):
        demand = SignatureDemand((key.public,), since=since)
        assert _faults(examine(version.files, version.manifest, "digits", demand)) == faults


def test_a_time_is_asked_for_where_the_provenance_was_taken_away(version: LocalVersion, key: KeyPair) -> None:
    """An older version, leaked with its signature: without slsa.json nothing tells how old that is."""
    alone = replace(version.files, provenance=None)
    demand = SignatureDemand((key.public,), provenance=False, since=datetime.now(UTC) + timedelta(hours=1))
    assert _faults(examine(alone, version.manifest, "digits", demand)) == [SignatureFault.UNSIGNED]


def test_the_provenance_names_what_a_version_was_made_from(version: LocalVersion) -> None:
    source = {"kind": "mlflow", "file": "a/model.onnx", "sha256": "a" * 64, "mlflow": {"uri": "models:/x", "sha256": "b" * 64}}
    report = {
        "training": {"function": "train:main", "seed": 1, "args": {"secret": 1}, "data": {"rows/train.parquet": "c" * 64}},
        "data": {"file": "/data/held.parquet", "sha256": "d" * 64},
        "machine": {"python": "3.13", "cores": 2},
    }
    facts = build_facts(version.manifest.model_copy(update={"source": source}), report)
    assert facts.materials == {
        "source:model.onnx": "a" * 64,
        "source:mlflow": "b" * 64,
        "training:train.parquet": "c" * 64,
        "evaluation:held.parquet": "d" * 64,
    }
    assert facts.parameters == {"engine": "onnx", "source": "mlflow", "function": "train:main", "seed": 1}
    assert facts.builder["python"] == "3.13"
    assert read_provenance(b"{}") is None


def _certificate(key: KeyPair) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "release")])
    began = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.private.private.public_key())
    dated = builder.serial_number(1).not_valid_before(began).not_valid_after(began + timedelta(days=1))
    return dated.sign(key.private.private, hashes.SHA256())


def _by_certificate(version: LocalVersion, der: bytes) -> bytes:
    """The version's signature with a chain where the key's hint would stand."""
    bundle = json.loads(version.files.signature or b"")
    chain = [{"rawBytes": base64.b64encode(der).decode()}]
    bundle["verificationMaterial"] = {"x509CertificateChain": {"certificates": chain}, "tlogEntries": []}
    return json.dumps(bundle).encode()


# P-256, as a certificate or key names it, and a curve that cryptography does not know; a certificate's version, and none.
UNKNOWN = [(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030102")), (b"\xa0\3\2\1\2", b"\xa0\3\2\1\x09")]


@pytest.mark.parametrize(("known", "unknown"), UNKNOWN)
def test_a_certificate_that_nobody_can_read_is_told(version: LocalVersion, key: KeyPair, known: bytes, unknown: bytes) -> None:
    """Whoever registers a version writes its signature: it must end in no defect of ours."""
    whole = _certificate(key).public_bytes(Encoding.DER)
    assert known in whole
    der = whole.replace(known, unknown, 1)
    files = replace(version.files, signature=_by_certificate(version, der))
    assert _faults(examine(files, version.manifest, "digits", SignatureDemand((key.public,)))) == [SignatureFault.UNREADABLE]
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(BadInput, match="no public key"):
        trusted_key(pem, "x", "here")


def test_of_a_certificate_its_key_counts(version: LocalVersion, key: KeyPair) -> None:
    """As OpenSSF's tool signs with one: the chain stands where the key's hint would."""
    certificate = _certificate(key)
    files = replace(version.files, signature=_by_certificate(version, certificate.public_bytes(Encoding.DER)))
    trusted = trusted_key(certificate.public_bytes(Encoding.PEM), "release", "here")
    assert trusted == key.public
    assert examine(files, version.manifest, "digits", SignatureDemand((trusted,))).doubts == ()
    stranger = examine(files, version.manifest, "digits", SignatureDemand((key_pair().public,)))
    assert _faults(stranger) == [SignatureFault.UNTRUSTED] * 2


@pytest.mark.parametrize("pem", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_told(pem: str, key: KeyPair) -> None:
    with pytest.raises(BadInput, match="no public key"):
        trusted_key(pem.encode(), "x", "here")
    with pytest.raises(BadInput, match="no private key"):
        signing_key(pem.encode(), "here")
    with pytest.raises(BadInput, match="no private key"):
        signing_key(key.public_pem, "here")
    other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(BadInput, match="can't sign versions"):
        signing_key(other, "here")
