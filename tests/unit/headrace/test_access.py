"""The home's key, which key goes where, `headrace key`, Access documents, and what `up` asks before a door opens to the
network."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from cluster.access.callers import Role
from cluster.access.keys import digest_of, find_key, key_id
from cluster.access.policy import Access
from cluster.errors import BadInput, Conflict
from cluster.store.sql import SqlStore
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.client import ControlClient
from headrace.control_calls import token_of
from headrace.local.home import Settings, read_settings
from headrace.local.home_key import ensure_home_key, home_key
from headrace.local.network_access import access_in, check_network
from headrace.local.options import UpOptions, not_taken_up
from headrace.project.documents import load_project
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain

DOCUMENT = """kind: Access
grants:
  - {to: {key: team}, roles: [score], models: ["fraud-*"]}
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"HEADRACE_HOME": str(tmp_path / "home")})


@pytest.fixture
def brain(monkeypatch: pytest.MonkeyPatch) -> Brain:
    brain = Brain()
    ask_brain(brain, monkeypatch)
    return brain


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_a_home_has_one_key_that_only_its_user_may_read(settings: Settings) -> None:
    assert home_key(settings.home) is None
    admitted = ensure_home_key(settings.home)
    text = home_key(settings.home)
    assert text is not None
    assert (key_id(text), digest_of(text)) == (admitted.id, admitted.digest)
    assert stat.S_IMODE(settings.home.key.stat().st_mode) == 0o600
    assert ensure_home_key(settings.home) == admitted


def test_a_key_that_others_may_read_is_not_used(settings: Settings) -> None:
    ensure_home_key(settings.home)
    settings.home.key.chmod(0o644)
    for read in (ensure_home_key, home_key):
        with pytest.raises(Conflict, match="others than this user may read the home's key"):
            read(settings.home)
    settings.home.key.chmod(0o600)
    settings.home.key.write_text("hr_no_key")
    with pytest.raises(Conflict, match="this is no key"):
        ensure_home_key(settings.home)


def test_the_homes_key_goes_to_its_own_gateway_and_to_no_other(settings: Settings, tmp_path: Path) -> None:
    ensure_home_key(settings.home)
    assert token_of(settings, own=True) == home_key(settings.home)
    assert token_of(settings, own=False) is None
    told = replace(settings, token="mine")  # noqa: S106 (a test's)
    assert token_of(told, own=True) == token_of(told, own=False) == "mine"
    assert "mine" not in repr(told)
    file = tmp_path / "token"
    file.write_text("from a file\n")
    file.chmod(0o600)
    named = replace(settings, token_file=file)
    assert token_of(named, own=False) == "from a file"
    file.chmod(0o640)
    with pytest.raises(Conflict, match="chmod 600"):
        token_of(named, own=False)
    file.unlink()
    with pytest.raises(BadInput, match="HEADRACE_TOKEN_FILE"):
        token_of(named, own=False)


def test_the_environment_names_them() -> None:
    seen = read_settings({"HEADRACE_TOKEN": "x", "HEADRACE_TOKEN_FILE": "/f"})
    assert (seen.token, seen.token_file) == ("x", Path("/f"))
    empty = read_settings({"HEADRACE_TOKEN": "", "HEADRACE_TOKEN_FILE": ""})
    assert (empty.token, empty.token_file) == (None, None)


def test_a_token_goes_into_every_command() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"keys": []})

    with ControlClient("http://gateway", transport=httpx.MockTransport(answer), token="hr_x") as client:  # noqa: S106 (a test's)
        client.keys()
    with ControlClient("http://gateway", transport=httpx.MockTransport(answer)) as client:
        client.keys()
    assert [request.headers.get("authorization") for request in asked] == ["Bearer hr_x", None]


def test_keys_are_made_listed_rotated_and_revoked(brain: Brain, run: Run) -> None:
    def lives(text: str) -> bool:
        return find_key(brain.controller.table.access.keys, text, brain.clock.now_s) is not None

    words = ("key", "create", "team", "--role", "score", "--role", "view", "--model", "fraud-*", "--expires", "90d")
    code, first, noted = run(*words)
    first = first.strip()
    assert code == ExitCode.OK
    assert lives(first)
    assert first not in noted
    assert "score, view: fraud-*" in noted
    code, listed, _ = run("key", "ls", "--json")
    (shown,) = json.loads(listed)["keys"]
    assert (shown["name"], shown["by"], shown["expires_s"] - shown["created_s"]) == ("team", "ann", 90 * 86_400)
    assert first not in listed
    assert "team" in run("key", "ls")[1]
    code, second, _ = run("key", "rotate", "team", "--grace", "1h")
    assert lives(first)
    assert lives(second.strip())
    code, out, _ = run("key", "revoke", key_id(first), "--json")
    assert (code, [one["id"] for one in json.loads(out)["revoked"]]) == (ExitCode.OK, [key_id(first)])
    assert not lives(first)
    assert lives(second.strip())
    assert run("key", "revoke", "team")[0] == ExitCode.OK
    assert not lives(second.strip())
    assert run("key", "revoke", "team")[0] == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("create", "team", "--model", "fraud-*"), "add --role"),
        (("create", "team", "--expires", "soon"), "90d"),
        (("create", "home"), "choose another"),
        (("rotate", "team"), "headrace key ls"),
        (("rotate", "team", "--grace", "-1s"), "90d"),
    ],
)
def test_what_makes_no_key_says_what_would(brain: Brain, run: Run, words: tuple[str, ...], told: str) -> None:
    code, _, noted = run("key", *words)
    assert code in (ExitCode.BAD_INPUT, ExitCode.NOT_FOUND)
    assert told in noted
    assert brain.store.load().keys == {}


def test_an_access_document_is_applied_like_any_other(brain: Brain, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(DOCUMENT)
    assert "created" in "".join(run("apply", "-f", file)[1:])
    document = brain.controller.table.access.document
    assert document == load_project([file]).access
    assert document is not None
    assert document.grants[0].roles == (Role.SCORE,)
    assert "unchanged" in "".join(run("apply", "-f", file)[1:])
    file.write_text(DOCUMENT.replace("score", "view"))
    _, out, noted = run("diff", "-f", file)
    assert "grants" in out + noted
    assert brain.controller.table.access.document == document
    run("apply", "-f", file)
    assert brain.store.load().access != document
    assert [event.detail["kind"] for event in brain.store.audit("")] == ["access", "access"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (DOCUMENT + "---\n" + DOCUMENT, "a second Access document"),
        ("kind: Access\nname: x\n", "name"),
        ("kind: Access\ngrants:\n  - {to: {key: a}, roles: [scores], models: ['*']}\n", "access.yaml:3"),
    ],
)
def test_a_bad_access_document_says_where(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_project([file])
    assert told in str(caught.value)


def test_up_takes_one_access_document_alone(tmp_path: Path) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(DOCUMENT)
    assert access_in(file).access is not None
    for text in ("kind: Model\nname: digits\n", DOCUMENT + "---\nkind: Model\nname: digits\n"):
        file.write_text(text)
        with pytest.raises(BadInput, match="one Access document is wanted here"):
            access_in(file)


def test_a_door_opens_to_the_network_only_where_somebody_said_for_whom(settings: Settings, tmp_path: Path) -> None:
    anywhere = UpOptions(host="0.0.0.0")  # noqa: S104 (not bound)
    for open_to in (UpOptions(), UpOptions(host="127.0.0.2"), replace(anywhere, insecure=True)):
        check_network(open_to, settings, None)
    assert not settings.home.store.exists()  # it was not even looked for
    with pytest.raises(BadInput, match="no Access document says who may do what"):
        check_network(anywhere, settings, None)
    file = tmp_path / "access.yaml"
    file.write_text(DOCUMENT)
    with pytest.raises(BadInput, match="in clear"):
        check_network(anywhere, settings, access_in(file))
    secured = replace(anywhere, tls_cert="/door.pem", tls_key="/door.key")
    with pytest.raises(BadInput, match="no Access document says who may do what"):
        check_network(secured, settings, None)
    check_network(secured, settings, access_in(file))
    store = SqlStore(settings.store_url)
    state = store.load()
    store.save(store.acquire(), state, replace(state, access=Access()), [])
    store.close()
    check_network(secured, settings, None)


def test_what_is_applied_to_a_run_that_is_up_already_is_not_told_as_left_out() -> None:
    assert not_taken_up(UpOptions(access="/a.yaml"), UpOptions()) == ()
