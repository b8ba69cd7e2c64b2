"""Finding the rows that kill replicas."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

from cluster.errors import EngineFailure, NoCapacity
from cluster.routing.routes import Target
from deployments.engines.datatypes import Array
from deployments.scoring.rows import Answer
from deployments.scoring.suspects import Suspects, marks_of
from deployments.transport.remote import RemoteTransport
from tests.support.models import INPUT, OUTPUT, SIGNATURE, rows

TARGET = Target(1, "digits--v1", "memory:", "0" * 64, "onnx", SIGNATURE)


class Dying(RemoteTransport):
    """Replicas that die of every batch with a row whose first feature is above 0.5, and time for so many calls."""

    def __init__(self, calls: int = 10_000) -> None:
        super().__init__()
        self.deaths = 0
        self.calls_left = calls

    async def _once(self, target: Target, tensors: Mapping[str, Array], end_s: float) -> Answer:
        if self.calls_left == 0:
            raise NoCapacity("no time")
        self.calls_left -= 1
        image = tensors[INPUT]
        if (image[:, 0] > 0.5).any():
            self.deaths += 1
            raise RayActorError
        return Answer({OUTPUT: np.repeat(image[:, 1:2], 10, axis=1)})


def poisoned(count: int, bad: list[int]) -> Array:
    image = rows(count)
    image[bad, 0] = 0.9
    return image


@pytest.mark.anyio
@pytest.mark.parametrize("bad", [[0], [1999], [3, 700, 701]])
async def test_rows_that_kill_replicas_fail_alone_and_are_not_asked_again(bad: list[int]) -> None:
    transport, image = Dying(), poisoned(2000, bad)
    answer = await transport.score(TARGET, {INPUT: image}, 10.0)
    good = np.setdiff1d(np.arange(2000), bad)
    assert sorted(answer.failed) == bad
    assert all(isinstance(error, EngineFailure) for error in answer.failed.values())
    np.testing.assert_array_equal(answer.outputs[OUTPUT][good, 0], image[good, 1])
    assert transport.deaths <= 3 + 4 * len(bad)  # the batch, then 125, 8, 1 and 1 rows
    before = transport.deaths
    again = await transport.score(TARGET, {INPUT: image}, 10.0)
    assert (sorted(again.failed), transport.deaths) == (bad, before)


@pytest.mark.anyio
async def test_what_was_learnt_stays_when_the_time_is_over() -> None:
    transport, image = Dying(calls=0), poisoned(2000, [1000])
    tries = 0
    while True:
        transport.calls_left = 10
        tries += 1
        try:
            answer = await transport.score(TARGET, {INPUT: image}, 10.0)
        except NoCapacity:
            assert tries < 20
        else:
            break
    assert sorted(answer.failed) == [1000]
    assert tries > 1


@pytest.mark.anyio
async def test_all_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, image = Dying(), poisoned(10, [4])
    await transport.score(TARGET, {INPUT: image}, 10.0)
    before, later_s = transport.deaths, time.monotonic() + 301
    monkeypatch.setattr("deployments.transport.remote.time.monotonic", lambda: later_s)
    await transport.score(TARGET, {INPUT: image}, 10.0)
    assert transport.deaths > before


@pytest.mark.thorough
@given(st.integers(1, 300), st.data())
def test_groups_hold_every_row_once_and_never_a_convicted_one(count: int, data: st.DataObject) -> None:
    suspects, marks = Suspects(), list(range(count))
    for _ in range(data.draw(st.integers(0, 6))):
        group = data.draw(st.lists(st.sampled_from(marks), min_size=1, unique=True))
        if data.draw(st.booleans()):
            suspects.died(group, 0.0)
        else:
            suspects.survived(group)
    places = [place for group in suspects.groups(marks) for place in group.tolist()]
    assert sorted(places + suspects.convicted(marks)) == marks


def test_one_death_alone_is_no_proof() -> None:
    suspects = Suspects()
    suspects.died([7], 0.0)
    assert suspects.convicted([7]) == []
    suspects.died([7], 0.0)
    assert suspects.convicted([7]) == [0]


def test_marks_follow_content_only() -> None:
    image, words = rows(3), np.array([b"a", b"", b"a"], np.object_)
    marks = marks_of({"image": image, "words": words})
    assert len(set(marks)) == 3
    assert marks_of({"words": words[1:], "image": image[1:].copy()}) == marks[1:]
