from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cluster.errors import BadInput, Conflict, Forbidden, NotFound, Unreachable
from deployments.keys.hpke_key import new_hpke_pair
from deployments.keys.port import WrappedKey, new_data_key
from deployments.keys.references import holder_of
from deployments.keys.ring import VARIABLE, KeyRing

INFO = b"tests"


def pair_in(folder: Path, name: str = "a") -> tuple[Path, Path]:
    private, public = new_hpke_pair()
    folder.mkdir(exist_ok=True)
    files = folder / f"{name}.key", folder / f"{name}.pub"
    for file, text in zip(files, (private, public), strict=True):
        file.write_text(text)
        file.chmod(0o600)
    return files


def ring_of(*references: str) -> KeyRing:
    return KeyRing.from_environment({VARIABLE: ",".join(references)})


def test_whoever_has_the_public_half_seals_and_opens_nothing(tmp_path: Path) -> None:
    private, public = pair_in(tmp_path)
    sealing, data_key = holder_of("a", folder=tmp_path), new_data_key()
    assert (sealing.where, sealing.opens) == (str(public), False)
    wrapped = sealing.wrap(data_key, INFO)
    with pytest.raises(Forbidden, match="public half"):
        sealing.unwrap(wrapped, INFO)
    assert holder_of(f"file:{private}").unwrap(wrapped, INFO) == data_key


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    private, public = pair_in(tmp_path)
    private.chmod(mode)
    public.chmod(0o644)
    with pytest.raises(Conflict, match="others than this user") as refused:
        ring_of(f"file:{tmp_path}")
    assert f"chmod 600 {private}" in refused.value.remedy
    assert holder_of(f"file:{public}").key_id


def test_the_ring_takes_every_key_of_a_folder_and_tries_those_that_fit(tmp_path: Path) -> None:
    pair_in(tmp_path, "old")
    pair_in(tmp_path, "new")
    ring, data_key = ring_of(f"file:{tmp_path}"), new_data_key()
    assert len(ring.holders) == 2
    for name in ("old", "new"):
        assert ring.unwrap([holder_of(name, folder=tmp_path).wrap(data_key, INFO)], INFO, where="x") == data_key


def test_a_key_that_is_not_there_keeps_no_other_of_its_folder_from_opening(tmp_path: Path) -> None:
    (tmp_path / "a.key").symlink_to(tmp_path / "gone")
    pair_in(tmp_path, "b")
    ring, data_key = ring_of(f"file:{tmp_path}"), new_data_key()
    assert ring.unwrap([holder_of("b", folder=tmp_path).wrap(data_key, INFO)], INFO, where="x") == data_key


def test_what_no_key_opens_is_said_with_the_keys_that_would(tmp_path: Path) -> None:
    pair_in(tmp_path / "here")
    pair_in(tmp_path / "elsewhere")
    stranger = holder_of("a", folder=tmp_path / "elsewhere")
    ring = ring_of(f"file:{tmp_path / 'here'}", f"file:{tmp_path / 'gone.key'}")
    with pytest.raises(Forbidden, match=r"no key of this machine opens it") as refused:
        ring.unwrap([stranger.wrap(new_data_key(), INFO)], INFO, where="digits")
    told = str(refused.value)
    assert stranger.key_id in told
    assert ring.holders[0].key_id in told
    assert "gone.key" in told


def test_a_service_that_is_away_is_told_as_that_and_another_key_is_tried(tmp_path: Path) -> None:
    class Away:
        key_id, where, opens = "away", "a service", True

        def wrap(self, data_key: bytes, info: bytes) -> WrappedKey:
            raise Unreachable("away")

        def unwrap(self, wrapped: WrappedKey, info: bytes) -> bytes:
            raise Unreachable("away")

    pair_in(tmp_path)
    (here,) = ring_of(f"file:{tmp_path}").holders
    data_key = new_data_key()
    local = here.wrap(data_key, INFO)
    both = [local.model_copy(update={"key": "away"}), local]
    assert KeyRing([Away(), here]).unwrap(both, INFO, where="x") == data_key
    with pytest.raises(Unreachable):
        KeyRing([Away(), here]).unwrap(both[:1], INFO, where="x")


def test_keys_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "noise.pub").write_text("noise")
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(BadInput, match="no key in PEM"):
        holder_of(f"file:{tmp_path / 'noise.pub'}")
    with pytest.raises(BadInput, match="not of X25519"):
        holder_of("env:KEY", environment={"KEY": other})
    with pytest.raises(NotFound, match="not set"):
        holder_of("env:KEY", environment={})
    with pytest.raises(NotFound, match="no key of that name"):
        holder_of("a", folder=tmp_path)
    with pytest.raises(BadInput, match="no kind of key"):
        holder_of("gcp:a")
    with pytest.raises(BadInput, match="not here"):
        ring_of("file:~nobody-of-this-name/keys")
    with pytest.raises(BadInput, match="is no address"):
        holder_of("vault:transit/a", environment={"VAULT_ADDR": "https://[::1"})


def test_a_key_in_place_of_its_name_is_not_told_again() -> None:
    secret = new_hpke_pair()[0]
    for told in (secret, f"file:{secret}", secret.replace("\n", "\\n"), f"file:{secret * 3}"):
        for take in (ring_of, holder_of):
            with pytest.raises(BadInput, match="a key itself") as refused:
                take(told)
            assert secret.splitlines()[1][:20] not in str(refused.value)


def test_openssl_makes_one(tmp_path: Path) -> None:
    file = tmp_path / "made.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "X25519", "-out", str(file)], check=True)
    file.chmod(0o600)
    holder, data_key = holder_of(f"file:{file}"), new_data_key()
    assert holder.unwrap(holder.wrap(data_key, INFO), INFO) == data_key
