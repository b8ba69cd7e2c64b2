"""Every holder of a key-encryption key does the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import Forbidden
from deployments.keys.hpke_key import new_hpke_pair
from deployments.keys.port import KeyHolder, WrappedKey, new_data_key
from deployments.keys.references import holder_of

INFO = b"what it is for"


def _in_file(folder: Path) -> KeyHolder:
    file = folder / "a.key"
    file.write_text(new_hpke_pair()[0])
    file.chmod(0o600)
    return holder_of(f"file:{file}")


def _in_a_variable(folder: Path) -> KeyHolder:
    return holder_of("env:KEY", environment={"KEY": new_hpke_pair()[0]})


@pytest.fixture(params=[_in_file, _in_a_variable])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], KeyHolder]:
    made: Callable[[Path], KeyHolder] = request.param
    return lambda: made(tmp_path)


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
