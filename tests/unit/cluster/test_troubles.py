"""What the controller logs of a world that is away: when that begins and when it is over, once each, with the cause."""

from __future__ import annotations

import logging

import pytest

from tests.support.brain import Brain


def test_each_of_the_world_is_told_once_when_it_goes_and_once_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    brain = Brain()
    brain.serve_first()
    with caplog.at_level(logging.WARNING, logger="cluster.troubles"):
        brain.streams.away = True
        brain.tick(5)
        brain.fleet.away = True  # then the streams are not asked, and stay as they were seen
        brain.tick(5)
        brain.fleet.away = False
        brain.tick(5)
        brain.streams.away = False
        brain.tick(5)
    told = [record.getMessage().partition(" (")[0] for record in caplog.records]
    streams, fleet = "fake streams: the streams are away", "ray: the fleet is away"
    assert [words.partition(";")[0] for words in told] == [streams, fleet, f"this is over: {fleet}", f"this is over: {streams}"]
