"""Who looks for partitions that nobody reads says where it could not see: the group may be kept by another broker by now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import NodeNotReadyError

from consumers.stream.kafka import unassigned
from consumers.stream.kafka.unassigned import AGAIN_S, Unassigned
from consumers.stream.log.port import Member
from consumers.stream.spec import StreamInput


class OneGroup:
    """An admin client that answers so, and counts how often it was asked."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer, self.asked = answer, 0

    def describe_groups(self, groups: list[str]) -> dict[str, Any]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return {groups[0]: self.answer}


@pytest.mark.parametrize(
    ("answer", "saw"),
    [
        ({"error": None, "group_state": "PreparingRebalance", "members": []}, True),
        ({"error": "[Error 16] NotCoordinatorError", "group_state": "", "members": []}, False),
        (NodeNotReadyError("the broker that kept the group is gone"), False),
    ],
    ids=["sees", "another keeps it now", "its keeper is gone"],
)
def test_what_could_not_be_seen_is_told(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | Exception, saw: bool) -> None:
    now_s = 100.0
    monkeypatch.setattr(unassigned, "time", SimpleNamespace(monotonic=lambda: now_s))
    looks, admin = Unassigned(Member("g", "g-0", "g-0"), StreamInput(topic="in")), OneGroup(answer)
    assert looks.look(admin)  # it is not time yet
    assert admin.asked == 0
    now_s += unassigned.FIRST_LOOK_S
    assert looks.look(admin) is saw
    now_s += AGAIN_S
    looks.look(admin)
    assert admin.asked == (2 if saw else 1)  # what may lack a right does not ask all the time
