"""What is drawn, what has changed of it, and who may see it."""

from __future__ import annotations

import json

from cluster.access.callers import CLUSTER, STRANGER, VISITOR, Caller, Role, grant_of
from deployments.gateway.console.nodes import NodeSeen
from deployments.gateway.console.pictures import (
    House,
    PictureChange,
    PictureRow,
    Sighting,
    difference,
    event,
    merged,
    rows_of,
    visible,
)

GLANCE = {"models": [{"name": "digits"}, {"name": "fraud"}], "feeds": [{"kind": "stream", "name": "s", "model": "fraud"}]}
NODE = NodeSeen("n1", "10.0.0.1", True, True, 8.0, 0.0, 1.0)


def test_rows_change_come_and_go() -> None:
    before = rows_of(Sighting(GLANCE, (NODE,)), House("1"))
    assert sorted(before) == ["house", "model/digits", "model/fraud", "node/n1", "stream/s"]
    after = rows_of(Sighting({"models": [{"name": "digits", "stable": 2}], "feeds": []}, (NODE,)), House("1"))
    changed = difference(before, after)
    assert {key: bool(row.data) for key, row in changed.items()} == {
        "model/digits": True,
        "model/fraud": False,
        "stream/s": False,
    }
    assert difference(after, after) == {}
    back = merged([PictureChange(1, changed), PictureChange(2, {"model/fraud": before["model/fraud"]})])
    assert back["model/fraud"].data


def test_each_sees_what_he_may_view_also_of_what_is_gone() -> None:
    rows = rows_of(Sighting(GLANCE, (NODE,)), House("1"))
    of_digits = Caller("key d", (grant_of((Role.VIEW,), "dig*"), grant_of((Role.SCORE,), "fraud")))
    assert sorted(visible(rows, of_digits)) == ["house", "model/digits"]
    assert sorted(visible(difference(rows, {}), of_digits)) == ["house", "model/digits"]
    assert visible(rows, VISITOR) == visible(rows, CLUSTER) == rows
    assert sorted(visible(rows, STRANGER)) == ["house"]


def test_an_event_is_one_line_of_json() -> None:
    rows = {"model/x": PictureRow("x", b'{"name":"x\\ny"}'), "model/<y>": PictureRow("<y>", b"")}
    told = event("change", "e-3", rows, 12.9).decode()
    head, data, end, empty = told.split("\n")[1], told.split("\n")[2], *told.split("\n")[3:5]
    assert (told.split("\n")[0], head, end, empty) == ("id: e-3", "event: change", "", "")
    assert json.loads(data.removeprefix("data: ")) == {"now_s": 12, "gone": ["model/<y>"], "rows": {"model/x": {"name": "x\ny"}}}
