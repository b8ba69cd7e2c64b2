"""API keys: their form, and what becomes of them by commands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.access.callers import EVERYTHING, Role, grant_of
from cluster.access.keys import StoredKey, digest_of, find_key, key_id, new_key
from cluster.errors import BadInput, Conflict, NotFound
from tests.support.brain import Brain

DAY_S = 86_400.0


def create(brain: Brain, name: str = "team", **more: object) -> str:
    """A key's text."""
    fresh = new_key()
    brain.call("key.create", name=name, id=fresh.id, digest=fresh.digest, **more)
    return fresh.text


def rotate(brain: Brain, **more: object) -> str:
    fresh = new_key()
    brain.call("key.rotate", name="team", id=fresh.id, digest=fresh.digest, **more)
    return fresh.text


def found(brain: Brain, text: str) -> StoredKey | None:
    """As a gateway finds it, in the newest table."""
    brain.controller.tick()
    return find_key(brain.controller.table.access.keys, text, brain.clock.now_s)


def test_a_key_has_a_form_that_scanners_find_and_typos_break() -> None:
    one, other = new_key(), new_key()
    assert one.text != other.text
    assert len(one.text) == 52
    assert one.text.startswith(f"hr_{one.id}_")
    assert key_id(one.text) == one.id
    assert one.text not in repr(one)
    for at in range(len(one.text)):
        assert key_id(one.text[:at] + ("A" if one.text[at] != "A" else "B") + one.text[at + 1 :]) is None


@given(st.text(max_size=80))
def test_nothing_else_is_a_key(text: str) -> None:
    assert key_id(text) is None
    assert find_key({}, text, 0.0) is None


def test_a_key_is_known_by_its_digest_alone_and_until_it_ends() -> None:
    fresh = new_key()
    stored = StoredKey(fresh.id, "team", fresh.digest, EVERYTHING, 0.0, expires_s=10.0)
    keys = {fresh.id: stored}
    assert find_key(keys, fresh.text, 9.9) is stored
    assert find_key(keys, fresh.text, 10.0) is None
    forged = new_key()
    assert find_key({forged.id: StoredKey(forged.id, "team", fresh.digest, EVERYTHING, 0.0)}, forged.text, 0.0) is None
    assert digest_of(fresh.text) == fresh.digest


def test_what_is_created_is_published_and_what_is_revoked_is_not() -> None:
    brain = Brain()
    text = create(brain, grants=[{"roles": ["score"], "models": ["fraud-*"]}])
    key = found(brain, text)
    assert key is not None
    assert (key.name, key.grants) == ("team", (grant_of([Role.SCORE], "fraud-*"),))
    shown = brain.call("key.list")["keys"]
    assert [(one["name"], one["lives"], one["expires_s"]) for one in shown] == [("team", True, None)]
    assert text not in str(shown)
    assert key.digest not in str(shown)
    brain.revive()
    assert found(brain, text) == key  # it is in the store
    brain.call("key.revoke", name="team")
    assert found(brain, text) is None
    with pytest.raises(NotFound, match="there is no such key"):
        brain.call("key.revoke", name="team")


def test_two_keys_of_a_name_live_at_a_time() -> None:
    brain = Brain()
    first = create(brain)
    with pytest.raises(Conflict, match="there is a key of this name"):
        create(brain)
    second = rotate(brain, grace_s=DAY_S)
    assert found(brain, first) is not None
    assert found(brain, second) is not None
    third = rotate(brain, grace_s=DAY_S)
    assert found(brain, first) is None
    assert found(brain, second) is not None
    brain.clock.now_s += DAY_S
    assert found(brain, second) is None
    assert found(brain, third) is not None


def test_a_new_key_lasts_as_long_as_the_old_one_did_unless_told_otherwise() -> None:
    brain = Brain()
    create(brain, lasts_s=90 * DAY_S)
    brain.clock.now_s += 80 * DAY_S
    text = rotate(brain)
    brain.clock.now_s += 90 * DAY_S - 1
    assert found(brain, text) is not None
    text = rotate(brain, lasts_s=DAY_S)
    brain.clock.now_s += DAY_S
    assert found(brain, text) is None


def test_a_key_that_has_ended_makes_room_for_another_of_its_name() -> None:
    brain = Brain()
    first = create(brain, lasts_s=5.0)
    brain.clock.now_s += 5.0
    assert found(brain, first) is None
    with pytest.raises(NotFound, match="there is no key of this name"):
        rotate(brain)
    create(brain)
    assert len(brain.call("key.list")["keys"]) == 1


def test_one_of_several_is_revoked_by_its_id() -> None:
    brain = Brain()
    first, second = create(brain), rotate(brain)
    brain.call("key.revoke", id=key_id(first))
    assert found(brain, first) is None
    assert found(brain, second) is not None
    with pytest.raises(BadInput, match="either the name"):
        brain.call("key.revoke")


def test_the_key_of_a_home_is_admitted_once_and_not_revoked_by_name() -> None:
    brain = Brain()
    fresh = new_key()
    for _ in range(2):
        brain.call("key.home", id=fresh.id, digest=fresh.digest)
    key = found(brain, fresh.text)
    assert key is not None
    assert (key.home, key.grants) == (True, EVERYTHING)
    with pytest.raises(NotFound):
        brain.call("key.revoke", name="home")
    with pytest.raises(BadInput, match="the keys that `headrace up` makes"):
        create(brain, name="home")
    brain.call("key.revoke", id=fresh.id)
    assert found(brain, fresh.text) is None


@pytest.mark.parametrize("more", [{"name": "a\nb"}, {"lasts_s": 1e300}, {"lasts_s": float("inf")}])
def test_what_no_list_of_keys_could_show_makes_none(more: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        create(Brain(), **more)  # type: ignore[arg-type]
