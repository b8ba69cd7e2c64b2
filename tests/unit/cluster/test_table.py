"""The route table: which models it lists and how they stand, how tables are ordered, and what differs between two."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.serving import Serving
from cluster.routing.changes import TableChange, change_between, with_change
from cluster.routing.published import TABLES_KEPT
from cluster.routing.routes import EMPTY, NOTHING, Route, RouteTable, Stamp, Standing, Target
from cluster.routing.table import digest_after, digest_of
from cluster.signature import Signature
from deployments.scoring.pieces import bearable_calls
from tests.support.brain import SIGNATURE, SURE, Brain

READY, AWAY, ASLEEP, WAITING, BARE = Standing.READY, Standing.AWAY, Standing.ASLEEP, Standing.WAITING, Standing.EMPTY


def standing(brain: Brain) -> dict[str, Standing]:
    brain.tick()
    return brain.controller.table.models


def test_every_model_is_listed_with_whether_it_can_answer_now() -> None:
    brain = Brain()
    assert standing(brain) == {}
    brain.build(1)
    assert standing(brain) == {"digits": BARE}  # no document says how to serve it
    brain.fleet.hold_back("digits--v1")
    brain.apply()
    brain.call("apply", models=[{"name": "documented"}])
    assert standing(brain) == {"digits": WAITING, "documented": BARE}
    brain.fleet.make_ready("digits--v1")
    brain.tick(3)
    assert standing(brain)["digits"] is READY
    brain.fleet.sicken("digits--v1", "the replica died")
    number = brain.controller.table.number
    assert standing(brain)["digits"] is AWAY
    assert brain.controller.table.number == number + 1
    brain.fleet.make_ready("digits--v1")
    assert standing(brain)["digits"] is READY


def test_one_that_its_callers_hold_can_answer_without_replicas() -> None:
    brain = Brain()
    brain.serve_first(serving={"transport": "embedded"})
    brain.fleet.sicken("digits--v1", "the replica died")
    assert standing(brain)["digits"] is READY


def test_one_that_a_person_scaled_to_nothing_sleeps() -> None:
    brain = Brain()
    brain.serve_first(serving={"scaling": "manual"})
    brain.call("model.scale", model="digits", replicas=0)
    brain.tick(2)
    assert standing(brain)["digits"] is ASLEEP


def test_who_scales_by_hand_has_callers_ask_as_many_replicas_at_a_time() -> None:
    brain = Brain()
    brain.serve_first(serving={"scaling": {"mode": "manual", "replicas": 1}})
    assert bearable_calls(brain.controller.table.routes["digits"].serving) == 2
    brain.call("model.scale", model="digits", replicas=4)
    brain.tick(2)
    assert bearable_calls(brain.controller.table.routes["digits"].serving) == 8
    brain.fleet.scale_by_hand("digits--v1", 3)  # in Ray's dashboard
    brain.tick(2)
    assert bearable_calls(brain.controller.table.routes["digits"].serving) == 6
    number = brain.controller.table.number
    brain.tick(2)
    assert brain.controller.table.number == number


def test_tables_of_a_later_controller_are_later_whatever_their_number() -> None:
    restored, lost = replace(EMPTY, number=3, fence=1_700_000_100), replace(EMPTY, number=900, fence=1_700_000_000)
    assert NOTHING < EMPTY.stamp < lost.stamp < restored.stamp
    assert Stamp(5, 1) < Stamp(5, 2)


def test_who_has_a_recent_table_is_told_what_changed_and_others_the_whole() -> None:
    brain = Brain()
    assert brain.controller.news(NOTHING) is EMPTY
    brain.serve_first({**SURE, "start": "manual", "keep_warm_s": 0})
    old = brain.controller.table
    brain.call("version.register", model="other", artifact_uri="u", digest="d", engine="onnx", signature=SIGNATURE)
    brain.call("apply", models=[{"name": "other"}])
    brain.tick(4)
    news = brain.controller.news(old.stamp)
    assert isinstance(news, TableChange)
    assert (set(news.routes), set(news.models)) == ({"other"}, {"other"})
    assert with_change(old, news) == brain.controller.table
    assert with_change(EMPTY, news) is None
    assert brain.controller.news(old.stamp) is news  # hundreds ask for the same
    nothing = brain.controller.news(brain.controller.table.stamp)
    assert isinstance(nothing, TableChange)
    assert (nothing.routes, nothing.models) == ({}, {})
    brain.build(2)
    for version in (2, 1) * TABLES_KEPT:
        brain.call("rollout.start", model="digits", version=version, plan="instant")
        brain.tick(4)
    assert brain.controller.news(old.stamp) is brain.controller.table
    assert len(brain.controller._tables._last.tables) == TABLES_KEPT


def test_only_what_changes_something_stirs_the_controller() -> None:
    brain = Brain()
    brain.serve_first()
    for command in ("status", "feed.list"):
        brain.call(command)
        assert not brain.controller.stirred
    brain.build(2)
    assert brain.controller.stirred
    brain.tick()
    assert not brain.controller.stirred


NAMES = st.sampled_from("abcd")
TARGET = Target(1, "app", "uri", "digest", "onnx", Signature.model_validate(SIGNATURE))


@st.composite
def tables(draw: st.DrawFn) -> RouteTable:
    weights = draw(st.dictionaries(NAMES, st.integers(0, 2)))
    routes = {name: Route(name, 1, Serving(), {1: TARGET}, weight=weight) for name, weight in weights.items()}
    models = draw(st.dictionaries(NAMES, st.sampled_from(Standing)))
    return RouteTable(draw(st.integers(0, 3)), routes, models, draw(st.integers(0, 1)))


@given(tables(), tables())
def test_a_change_leads_from_one_table_to_the_other(before: RouteTable, after: RouteTable) -> None:
    change = change_between(before, after)
    assert with_change(before, change) == after
    same = {name for name in before.routes if after.routes.get(name) == before.routes[name]}
    assert not same & set(change.routes)


@given(tables(), tables())
def test_the_digest_of_a_table_is_had_from_that_of_another_by_what_differs(before: RouteTable, after: RouteTable) -> None:
    assert digest_after(digest_of(before), before, after) == digest_of(after)
    alike = before.routes == after.routes and before.models == after.models
    assert (digest_of(before) == digest_of(after)) is alike
