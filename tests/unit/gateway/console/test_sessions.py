"""What stands in a cookie in place of a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.access.callers import EVERYTHING
from cluster.access.keys import StoredKey
from deployments.gateway.console.sessions import CODE_S, SESSION_S, TokenPurpose, lasting_s, sign, verify
from deployments.gateway.console.shared_secret import shared_secret

NOW_S = 1_000_000.0
KEY = StoredKey("0123456789", "ann", "ab" * 32, EVERYTHING, NOW_S)
KEYS = {KEY.id: KEY}
SECRET = b"shared"


def test_a_session_is_taken_by_every_gateway_until_it_ends() -> None:
    text = sign(KEY, TokenPurpose.SESSION, SECRET, NOW_S)
    token = verify(text, TokenPurpose.SESSION, KEYS, SECRET, NOW_S + SESSION_S - 1)
    assert token is not None
    assert (token.key_id, token.until_s) == (KEY.id, NOW_S + SESSION_S)
    assert verify(text, TokenPurpose.SESSION, KEYS, SECRET, NOW_S + SESSION_S) is None
    assert KEY.digest not in text


def test_it_ends_with_its_key() -> None:
    text = sign(KEY, TokenPurpose.SESSION, SECRET, NOW_S)
    assert verify(text, TokenPurpose.SESSION, {}, SECRET, NOW_S) is None
    short = StoredKey(KEY.id, "ann", KEY.digest, EVERYTHING, NOW_S, NOW_S + 60)
    assert lasting_s(short, TokenPurpose.SESSION, NOW_S) == NOW_S + 60
    assert verify(text, TokenPurpose.SESSION, {KEY.id: short}, SECRET, NOW_S + 61) is None
    another = StoredKey(KEY.id, "ann", "cd" * 32, EVERYTHING, NOW_S)
    assert verify(text, TokenPurpose.SESSION, {KEY.id: another}, SECRET, NOW_S) is None


def test_a_code_is_no_session_and_lasts_minutes() -> None:
    code = sign(KEY, TokenPurpose.CODE, SECRET, NOW_S)
    assert verify(code, TokenPurpose.SESSION, KEYS, SECRET, NOW_S) is None
    assert verify(code, TokenPurpose.CODE, KEYS, SECRET, NOW_S + CODE_S - 1) is not None
    assert verify(code, TokenPurpose.CODE, KEYS, SECRET, NOW_S + CODE_S) is None
    forged = code.replace("code.", "session.", 1)
    assert verify(forged, TokenPurpose.SESSION, KEYS, SECRET, NOW_S) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text.replace(str(int(NOW_S + SESSION_S)), str(int(NOW_S + 2 * SESSION_S))),
        lambda text: text + "x" * 300,
        lambda text: text.replace(".", ""),
        lambda text: "ä" + text,
        lambda _: "",
    ],
)
def test_what_was_not_signed_so_is_no_good(change: object) -> None:
    assert callable(change)
    text = change(sign(KEY, TokenPurpose.SESSION, SECRET, NOW_S))
    assert verify(text, TokenPurpose.SESSION, KEYS, SECRET, NOW_S) is None


def test_who_knows_the_stored_digests_alone_can_sign_nothing() -> None:
    forged = sign(KEY, TokenPurpose.SESSION, b"", NOW_S)
    assert verify(forged, TokenPurpose.SESSION, KEYS, SECRET, NOW_S) is None


def test_the_shared_secret_is_made_from_rays_token_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret-of-ray\n")
    by_file, by_value = shared_secret({"RAY_AUTH_TOKEN_PATH": str(file)}), shared_secret({"RAY_AUTH_TOKEN": "secret-of-ray"})
    assert by_file == by_value
    assert len(by_file) == 32
    assert b"secret-of-ray" not in by_file
    assert shared_secret({"HOME": str(tmp_path)}) == b""
