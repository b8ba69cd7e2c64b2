"""`headrace signing new|ls`, `headrace model sign|verify`: keys as files, and a version looked at without a service."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.state import Model, State
from cluster.store.sql import SqlStore
from cluster.versions import Version, VersionId
from deployments.artifacts.places import Place
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.local.home import read_settings
from headrace.signing.looking import look_at
from tests.support.signed import LocalVersion, local_version

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    for name in ("HEADRACE_URL", "HEADRACE_SIGNING", "HEADRACE_STORE_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def _registered(home: Path, *versions: LocalVersion) -> None:
    """A store with these as versions 1, 2, ... of digits; nothing runs."""
    settings = read_settings()
    settings.home.make()
    store = SqlStore(settings.store_url)
    state = store.load()
    for number, one in enumerate(versions, 1):
        known = Version(VersionId("digits", number), one.uri, one.digest, "onnx", one.manifest.signature, 1.0)
        state = replace(state, versions=state.versions.adding(known))
    state = state.with_model(Model("digits", last_number=len(versions)))
    store.save(store.acquire(), State(), state, [])
    store.close()


def test_a_key_is_its_users_alone_and_never_written_over(home: Path, capsys: Captured) -> None:
    assert main(["signing", "new", "release"]) == ExitCode.OK
    public = Path(capsys.readouterr().out.strip())
    private = public.with_suffix(".key")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    before = private.read_bytes()
    assert main(["signing", "new", "release"]) == ExitCode.CONFLICT
    assert main(["signing", "new", "../release"]) == ExitCode.BAD_INPUT
    assert private.read_bytes() == before
    capsys.readouterr()
    assert main(["signing", "ls", "--json"]) == ExitCode.OK
    (told,) = json.loads(capsys.readouterr().out)["keys"]
    assert (told["name"], told["signs"]) == ("release", True)
    assert b"PRIVATE" not in public.read_bytes()


def test_a_key_that_others_may_read_signs_nothing(home: Path, tmp_path: Path, capsys: Captured) -> None:
    _registered(home, local_version(tmp_path))
    main(["signing", "new", "release"])
    key = home / "signing" / "release.key"
    key.chmod(0o644)
    assert main(["model", "sign", "digits", "--key", "release"]) == ExitCode.CONFLICT
    assert "chmod 600" in capsys.readouterr().err
    assert main(["model", "sign", "digits", "--key", "nobody"]) == ExitCode.NOT_FOUND
    assert main(["model", "sign", "digits", "--key", str(tmp_path / "home/signing")]) == ExitCode.NOT_FOUND
    assert "Is a directory" in capsys.readouterr().err
    secret = key.read_text()
    assert main(["model", "sign", "digits", "--key", secret]) == ExitCode.BAD_INPUT
    assert secret.splitlines()[1][:20] not in capsys.readouterr().err


def test_a_version_is_signed_and_verified_with_nothing_running(home: Path, tmp_path: Path, capsys: Captured) -> None:
    older, newer = local_version(tmp_path / "a"), local_version(tmp_path / "b", seed=1)
    _registered(home, older, newer)
    main(["signing", "new", "release"])
    assert main(["model", "verify", "digits", "--version", "1"]) == ExitCode.FAILED
    assert "it is not signed" in capsys.readouterr().err
    for number in ("1", "2"):
        assert main(["model", "sign", "digits", "--version", number, "--key", "release"]) == ExitCode.OK
    capsys.readouterr()
    assert main(["model", "verify", "digits:1", "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["digest"], told["signer"]["name"], told["wrong"]) == (1, older.digest, "release", [])
    assert set(told["files"]) == {entry.path for entry in older.manifest.files}
    # An older version's signature put beside a newer one.
    for name in ("model.sig", "slsa.json"):
        (Path(newer.uri) / name).write_bytes((Path(older.uri) / name).read_bytes())
    assert main(["model", "verify", "digits"]) == ExitCode.FAILED
    assert "is of another version" in capsys.readouterr().err


def test_what_was_looked_at_is_signed_whatever_lies_there_by_then(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write beside the version must get no signature of another manifest, by being quick."""
    version = local_version(tmp_path)
    manifest = Path(version.uri) / "manifest.json"
    whole = manifest.read_bytes()

    def looked_at(*asked: object) -> object:
        seen = look_at(*asked)  # type: ignore[arg-type]
        manifest.write_bytes(whole.replace(b'"sample_tolerance": 0.0001', b'"sample_tolerance": 1000'))
        return seen

    main(["signing", "new", "release"])
    monkeypatch.setattr("headrace.cli.custody.versions.look_at", looked_at)
    assert main(["model", "sign", version.uri, "--key", "release"]) == ExitCode.OK
    monkeypatch.undo()
    monkeypatch.setenv("HEADRACE_HOME", str(home))
    assert manifest.read_bytes() != whole
    assert main(["model", "verify", version.uri]) == ExitCode.FAILED
    manifest.write_bytes(whole)
    assert main(["model", "verify", version.uri]) == ExitCode.OK


def test_a_changed_file_is_named_and_never_signed(home: Path, tmp_path: Path, capsys: Captured) -> None:
    version = local_version(tmp_path)
    main(["signing", "new", "release"])
    folder = Path(version.uri)
    assert main(["model", "sign", str(folder), "--key", "release"]) == ExitCode.OK
    public = str(home / "signing" / "release.pub")
    assert main(["model", "verify", str(folder), "--key", public]) == ExitCode.OK
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"x")
    capsys.readouterr()
    assert main(["model", "verify", str(folder), "--key", public]) == ExitCode.FAILED
    assert "model.onnx was changed" in capsys.readouterr().err
    assert main(["model", "sign", str(folder), "--key", "release"]) == ExitCode.FAILED
    assert "nothing is signed" in capsys.readouterr().err
    assert main(["model", "verify", "digits"]) == ExitCode.UNAVAILABLE


def test_a_version_in_a_folder_is_explained_only_as_the_policy_says(
    home: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, row = local_version(tmp_path), tmp_path / "row.json"
    row.write_text("{}")
    main(["signing", "new", "release"])
    policy = tmp_path / "signing.yaml"
    policy.write_text("kind: Signing\nrules: [{models: [digits], mode: enforce, keys: [home/signing/release.pub]}]")
    monkeypatch.setenv("HEADRACE_SIGNING", str(policy))
    assert main(["explain", version.uri, "--row", str(row)]) == ExitCode.FAILED
    assert "refused by the signing policy: it is not signed" in capsys.readouterr().err
    assert main(["model", "sign", version.uri, "--key", "release"]) == ExitCode.OK
    capsys.readouterr()
    assert main(["explain", version.uri, "--row", str(row)]) == ExitCode.BAD_INPUT
    assert "signing policy" not in capsys.readouterr().err


def test_a_policy_that_makes_no_sense_starts_nothing(home: Path, tmp_path: Path, capsys: Captured) -> None:
    policy = tmp_path / "signing.yaml"
    policy.write_text("kind: Signing\nrules: [{models: ['*'], mode: enforce, keys: [nobody.pub]}]")
    assert main(["up", "--signing", str(policy)]) == ExitCode.BAD_INPUT
    assert "a trusted key can't be read" in capsys.readouterr().err
    assert not (home / "run.json").exists()


def test_nothing_is_trained_that_would_be_refused(
    home: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["signing", "new", "release"])
    policy = tmp_path / "signing.yaml"
    policy.write_text("kind: Signing\nrules: [{models: [churn], mode: enforce, keys: [home/signing/release.pub]}]")
    monkeypatch.setenv("HEADRACE_SIGNING", str(policy))
    document = tmp_path / "churn.yaml"
    document.write_text("kind: Model\nname: churn\nbuild: {source: {onnx: none.onnx}}")
    for words in (["--sign", "nobody"], []):
        capsys.readouterr()
        assert main(["build", str(document), *words]) in (ExitCode.NOT_FOUND, ExitCode.BAD_INPUT)
    assert "the signing policy takes no version that is not signed" in capsys.readouterr().err


def test_a_cluster_that_is_joined_has_its_policy_where_its_nodes_start(
    home: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "signing.yaml"
    policy.write_text("kind: Signing")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["up", "--signing", str(policy)]) == ExitCode.BAD_INPUT
    assert "set HEADRACE_SIGNING to the policy's path where its nodes are started" in capsys.readouterr().err
    assert main(["apply", "-f", str(policy)]) == ExitCode.BAD_INPUT
    assert "is a file of each node" in capsys.readouterr().err


def test_a_key_is_replaced_and_what_the_old_one_signed_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The old one may leave the policy then. What nobody trusted had signed is signed by nobody now."""
    versions = [local_version(tmp_path / str(seed), seed=seed) for seed in range(5)]
    _registered(home, *versions)
    for name in ("old", "new", "strangers"):
        main(["signing", "new", name])
    for number, name in ((1, "old"), (2, "old"), (3, "strangers"), (4, "old")):
        assert main(["model", "sign", f"digits:{number}", "--key", name]) == ExitCode.OK
    policy = tmp_path / "signing.yaml"
    rule = "kind: Signing\nrules:\n  - {models: ['*'], mode: enforce, keys: [%s]}\n"
    listed = {name: str(home / "signing" / f"{name}.pub") for name in ("old", "new")}
    policy.write_text(rule % ", ".join(listed.values()))
    monkeypatch.setenv("HEADRACE_SIGNING", str(policy))
    told = json.loads((Path(versions[0].uri) / "slsa.json").read_bytes())
    (Path(versions[3].uri) / "model.onnx").write_bytes(b"another")
    capsys.readouterr()

    assert main(["model", "sign", "digits", "--again", "--key", "new", "--json"]) == ExitCode.FAILED
    said = capsys.readouterr()
    done = json.loads(said.out)
    assert [one["version"] for one in done["signed"]] == [1, 2]
    assert list(done["left"]) == ["digits version 3", "digits version 4"]
    assert "is not trusted for this model" in done["left"]["digits version 3"]
    assert "model.onnx was changed" in done["left"]["digits version 4"]
    assert "digits version 5 stays as it is: it is not signed" in said.err

    policy.write_text(rule % listed["new"])
    assert main(["signing", "ls", "digits", "--json"]) == ExitCode.OK
    listed_now = json.loads(capsys.readouterr().out)["versions"]
    assert [one["signer"]["name"] if one["signer"] else None for one in listed_now] == ["new", "new", None, None, None]
    assert "not trusted" in listed_now[2]["wrong"]
    assert main(["model", "verify", "digits:1"]) == ExitCode.OK
    anew = json.loads((Path(versions[0].uri) / "slsa.json").read_bytes())
    before, after = (statement_of(one) for one in (told, anew))
    signed_on = before["predicate"]["runDetails"]["metadata"].pop("headrace_signed_on")
    assert signed_on <= after["predicate"]["runDetails"]["metadata"].pop("headrace_signed_on")
    assert before == after, "what it was made from is told as it was"
    capsys.readouterr()
    assert main(["model", "sign", "digits:1", "--again", "--key", "new"]) == ExitCode.OK
    assert capsys.readouterr().out == "", "it is signed by that key already"
    assert main(["signing", "ls", "digits"]) == ExitCode.OK
    assert "new (" in capsys.readouterr().out


def test_signing_again_that_was_killed_between_its_files_is_seen_and_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Whoever takes the old key away because nothing is signed by it any more must not lose a version for its provenance."""
    version = local_version(tmp_path)
    _registered(home, version)
    for name in ("old", "new"):
        main(["signing", "new", name])
    assert main(["model", "sign", "digits", "--key", "old"]) == ExitCode.OK
    write = Place.write

    def once(place: Place, content: bytes) -> None:
        write(place, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Place, "write", once)
        main(["model", "sign", "digits", "--again", "--key", "new"])
    capsys.readouterr()
    assert main(["signing", "ls", "digits", "--json"]) == ExitCode.OK
    (seen,) = json.loads(capsys.readouterr().out)["versions"]
    assert seen["signer"]["name"] == "old"
    assert main(["model", "sign", "digits", "--again", "--key", "new"]) == ExitCode.OK
    for half in ("old.key", "old.pub"):
        (home / "signing" / half).unlink()
    assert main(["model", "verify", "digits"]) == ExitCode.OK
    # Signed, and not as it was: no version that was never signed.
    (Path(version.uri) / "slsa.json").unlink()
    assert main(["model", "sign", "digits", "--again", "--key", "new"]) == ExitCode.FAILED
    assert "slsa.json is missing" in capsys.readouterr().err


def statement_of(bundle: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return found


def test_a_version_that_is_damaged_hides_no_other_of_who_signed_them(home: Path, tmp_path: Path, capsys: Captured) -> None:
    versions = [local_version(tmp_path / str(seed), seed=seed) for seed in range(2)]
    _registered(home, *versions)
    main(["signing", "new", "release"])
    main(["model", "sign", "digits:2", "--key", "release"])
    (Path(versions[0].uri) / "manifest.json").unlink()
    capsys.readouterr()
    assert main(["signing", "ls", "digits", "--json"]) == ExitCode.OK
    first, second = json.loads(capsys.readouterr().out)["versions"]
    assert "no manifest" in first["wrong"]
    assert (second["signer"]["name"], second["wrong"]) == ("release", "")
