"""Every holder of a key-encryption key does the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.errors import BadInput, Forbidden, NotFound, Unreachable
from deployments.keys.hpke_key import new_hpke_pair
from deployments.keys.port import KeyHolder, WrappedKey, new_data_key
from deployments.keys.references import holder_of
from tests.support.key_services import TOKEN, SmallKeyService, small_kms, small_vault

INFO = b"what it is for"


def _in_file(folder: Path) -> KeyHolder:
    file = folder / "a.key"
    file.write_text(new_hpke_pair()[0])
    file.chmod(0o600)
    return holder_of(f"file:{file}")


def _in_a_variable() -> KeyHolder:
    return holder_of("env:KEY", environment={"KEY": new_hpke_pair()[0]})


@pytest.fixture(scope="module")
def vault() -> Iterator[SmallKeyService]:
    with small_vault().serving() as service:
        yield service


@pytest.fixture(scope="module")
def kms() -> Iterator[SmallKeyService]:
    with small_kms().serving() as service:
        yield service


@pytest.fixture
def services(vault: SmallKeyService, kms: SmallKeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "VAULT_ADDR": vault.url,
        "VAULT_TOKEN": TOKEN,
        "AWS_ENDPOINT_URL_KMS": kms.url,
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "small",
        "AWS_SECRET_ACCESS_KEY": "small",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["file", "variable", "vault:transit/prod", "aws-kms:alias/prod"])
def make(request: pytest.FixtureRequest, tmp_path: Path, services: None) -> Callable[[], KeyHolder]:
    match request.param:
        case "file":
            return lambda: _in_file(tmp_path)
        case "variable":
            return _in_a_variable
        case reference:
            return lambda: holder_of(reference)


def test_it_unwraps_what_it_wrapped(make: Callable[[], KeyHolder]) -> None:
    holder, data_key = make(), new_data_key()
    wrapped = holder.wrap(data_key, INFO)
    assert wrapped.key == holder.key_id
    assert data_key not in wrapped.model_dump_json().encode()
    assert holder.opens
    assert holder.unwrap(WrappedKey.model_validate_json(wrapped.model_dump_json()), INFO) == data_key


def test_no_two_wraps_are_alike(make: Callable[[], KeyHolder]) -> None:
    holder, data_key = make(), new_data_key()
    assert holder.wrap(data_key, INFO).wrapped != holder.wrap(data_key, INFO).wrapped


def test_another_purpose_is_refused(make: Callable[[], KeyHolder]) -> None:
    holder = make()
    wrapped = holder.wrap(new_data_key(), INFO)
    with pytest.raises(Forbidden, match="does not open it"):
        holder.unwrap(wrapped, b"another")


def test_a_wrap_that_was_changed_is_refused(make: Callable[[], KeyHolder]) -> None:
    holder = make()
    wrapped = holder.wrap(new_data_key(), INFO)
    for changed in (wrapped.wrapped[:-1], wrapped.wrapped[:-1] + bytes([wrapped.wrapped[-1] ^ 1]), b""):
        with pytest.raises(Forbidden):
            holder.unwrap(wrapped.model_copy(update={"wrapped": changed}), INFO)


def test_a_wrap_of_another_key_is_refused(make: Callable[[], KeyHolder]) -> None:
    stranger = holder_of("env:KEY", environment={"KEY": new_hpke_pair()[1]})
    with pytest.raises(Forbidden):
        make().unwrap(stranger.wrap(new_data_key(), INFO), INFO)


SERVICES = ["vault:transit/", "aws-kms:alias/"]


@pytest.mark.parametrize("place", SERVICES)
def test_a_service_that_is_away_is_said_to_be(
    place: str, services: None, vault: SmallKeyService, kms: SmallKeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = holder_of(f"{place}prod")
    wrapped = holder.wrap(new_data_key(), INFO)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for service in (vault, kms):
        monkeypatch.setattr(service, "away", True)
    with pytest.raises(Unreachable, match="does not answer"):
        holder_of(f"{place}prod").unwrap(wrapped, INFO)
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="does not answer"):
        holder_of(f"{place}prod").unwrap(wrapped, INFO)


@pytest.mark.parametrize("place", SERVICES)
@pytest.mark.parametrize("told", [[], {}, {"data": None}, {"data": {"plaintext": "!", "ciphertext": 1}, "Plaintext": 3}])
def test_an_answer_that_makes_no_sense_is_told(
    place: str, told: object, services: None, vault: SmallKeyService, kms: SmallKeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's page, for one."""
    holder = holder_of(f"{place}prod")
    wrapped = holder.wrap(new_data_key(), INFO)
    for service in (vault, kms):
        monkeypatch.setattr(service.RequestHandlerClass, "answer", lambda *_: told)
    with pytest.raises(Unreachable, match="what answers is not"):
        holder.unwrap(wrapped, INFO)


@pytest.mark.parametrize("place", SERVICES)
def test_what_a_service_refuses_is_told(place: str, services: None, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = holder_of(f"{place}prod").wrap(new_data_key(), INFO)
    with pytest.raises(Forbidden, match="does not open it"):
        holder_of(f"{place}other").unwrap(wrapped, INFO)
    with pytest.raises((NotFound, Forbidden), match=r"no such key|does not wrap"):
        holder_of(f"{place}nobodys").wrap(new_data_key(), INFO)
    monkeypatch.setenv("VAULT_TOKEN", "another")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    with pytest.raises(Forbidden, match="refuses"):
        holder_of(f"{place}prod").unwrap(wrapped, INFO)


def test_no_service_is_told_a_version_or_asked_in_clear(services: None, vault: SmallKeyService, kms: SmallKeyService) -> None:
    for place, service in zip(SERVICES, (vault, kms), strict=True):
        service.asked.clear()
        holder_of(f"{place}prod").wrap(new_data_key(), b"a private name")
        assert len(service.asked) == 1
    assert "private" not in str(kms.asked), "it would stand in AWS's audit"
    with pytest.raises(BadInput, match="in clear"):
        holder_of("vault:transit/prod", environment={"VAULT_ADDR": "http://vault.example.com"})
    with pytest.raises(BadInput, match="MOUNT/NAME"):
        holder_of("vault:prod")
    with pytest.raises(BadInput, match="names no key"):
        holder_of("aws-kms:")


def test_a_library_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for reference, module, library, extra in (
        ("vault:transit/prod", "vault_key", "hvac", "vault"),
        ("aws-kms:alias/prod", "aws_kms_key", "boto3", "aws"),
    ):
        monkeypatch.delitem(sys.modules, f"deployments.keys.{module}", raising=False)
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(NotFound, match="not installed") as refused:
            holder_of(reference)
        assert f"headrace[{extra}]" in refused.value.remedy
