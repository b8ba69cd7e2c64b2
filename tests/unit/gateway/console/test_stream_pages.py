"""What a stream's page asks: allowed and remembered by the controller first, and only then done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.access.callers import CLUSTER, EVERYTHING, Caller, Role, grant_of
from cluster.commands.streams.moves import StreamDocument
from cluster.errors import BadInput, Conflict, Forbidden, HeadraceError, NotFound
from deployments.gateway.console.stream_pages import StreamPages
from deployments.gateway.console.streams import (
    DeadLetter,
    DeadLetters,
    LetterChoice,
    LetterPlace,
    LetterRange,
    SeekPart,
    SeekPlan,
    StreamMove,
)
from tests.support.brain import SURE, Brain

ANN = Caller("home ann", EVERYTHING, speaks_for=True)
VIEWER = Caller("key viewer", (grant_of((Role.VIEW,), "digits"),))
PLAN = SeekPlan(to="latest", parts=(SeekPart(partition="in/0", at=4, to=10), SeekPart(partition="in/1", at=7, to=5)))
CHOICE = {"choice": {"ranges": [{"partition": 0, "begin": 0, "end": 9}]}, "which": "all", "letters": 3}


class _Control:
    """A brain's controller."""

    def __init__(self, brain: Brain) -> None:
        self.brain = brain

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        return self.brain.controller.call(command, payload, caller)


class _Operations:
    """Notes what it is asked to do. `changed`: the stream stands elsewhere than a plan says; `busy`: something is under way."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.changed = self.busy = False

    async def dead_letters(self, stream: StreamDocument, before: tuple[LetterRange, ...], reason: str) -> DeadLetters:
        self.done.append(("letters", stream.name, before, reason))
        return DeadLetters(topic="dead", kept=0, ranges=(), letters=0, more=False, reasons=(), rows=())

    async def dead_letter(self, stream: StreamDocument, place: LetterPlace) -> DeadLetter:
        raise NotFound("there is no such dead letter")

    async def replay(self, stream: StreamDocument, choice: LetterChoice, replay: str, by: str) -> StreamMove:
        self._begin()
        self.done.append(("replay", choice.ranges, by))
        return StreamMove(id=replay, kind="replay", by=by, state="running", words="", begun_s=0.0)

    async def preview(self, stream: StreamDocument, to: str) -> SeekPlan:
        return PLAN.model_copy(update={"to": to})

    async def check(self, stream: StreamDocument, plan: SeekPlan) -> None:
        if self.changed:
            raise Conflict("partition in/0 stands elsewhere than when it was looked at")

    async def seek(self, stream: StreamDocument, plan: SeekPlan, by: str, stopped_s: float | None) -> StreamMove:
        self._begin()
        self.done.append(("seek", plan, by, stopped_s))
        return StreamMove(id="s1", kind="seek", by=by, state="running", words="", begun_s=0.0)

    async def moves(self, stream: str) -> tuple[StreamMove, ...]:
        return ()

    def _begin(self) -> None:
        if self.busy:
            raise Conflict("a replay is under way, begun by bob")


class _Page:
    """The page of the stream `scores`."""

    def __init__(self) -> None:
        self.brain, self.operations = Brain(), _Operations()
        self.brain.build(1)
        self.brain.call("apply", models=[{"name": "digits", "rollout": SURE, "serving": {}}])
        self.brain.call("apply", feeds=[{"kind": "stream", "name": "scores", "model": "digits", "spec": {}}])
        self.brain.tick(2)
        self._pages = StreamPages(_Control(self.brain), self.operations)  # type: ignore[arg-type]  # only `call` is asked

    def ask(self, question: str, caller: Caller = ANN, **asked: Any) -> dict[str, Any]:
        return asyncio.run(self._pages.answer("scores", question, asked, caller))

    @property
    def wanted(self) -> str:
        return str(self.brain.call("stream.show", name="scores")["seen"]["wanted"])

    @property
    def audit(self) -> list[tuple[str, str]]:
        return [(event.event, event.actor) for event in self.brain.store.audit("digits") if event.detail.get("name") == "scores"]


@pytest.fixture
def page() -> _Page:
    return _Page()


def test_a_seek_stops_the_stream_and_does_what_was_previewed(page: _Page) -> None:
    told = page.ask("preview", to="latest")
    assert [(part["skips"], part["repeats"]) for part in told["parts"]] == [(6, 0), (0, 2)]
    page.brain.clock.now_s = 5000.0
    page.ask("seek", plan=PLAN.model_dump(), seen=told["seen"])
    assert page.operations.done == [("seek", PLAN, "home ann, in the console", 5000.0)]
    assert page.wanted == "paused"
    assert page.audit[-1] == ("stream.seek", "home ann, in the console")


def test_a_paused_stream_stays_so(page: _Page) -> None:
    page.brain.call("feed.pause", kind="stream", name="scores")
    page.ask("seek", plan=PLAN.model_dump(), seen=page.ask("preview", to="latest")["seen"])
    assert page.operations.done[0][3] is None


@pytest.mark.parametrize("change", ["offsets", "state"])
def test_where_it_has_changed_nothing_is_stopped_or_moved(page: _Page, change: str) -> None:
    seen = page.ask("preview", to="latest")["seen"]
    page.operations.changed = change == "offsets"
    if change == "state":
        page.brain.clock.now_s += 1
        for move in ("pause", "resume"):
            page.brain.call(f"feed.{move}", kind="stream", name="scores")
    with pytest.raises(Conflict):
        page.ask("seek", plan=PLAN.model_dump(), seen=seen)
    assert (page.operations.done, page.wanted) == ([], "running")


def test_a_move_that_can_not_begin_stops_nothing_and_the_audit_says_so(page: _Page) -> None:
    page.operations.busy = True
    seen = page.ask("preview", to="latest")["seen"]
    asked: dict[str, dict[str, Any]] = {"seek": {"plan": PLAN.model_dump(), "seen": seen}, "replay": CHOICE}
    for question, words in asked.items():
        with pytest.raises(Conflict, match="a replay is under way"):
            page.ask(question, **words)
        assert page.wanted == "running"
        assert page.audit[-2:] == [(f"stream.{question}{end}", "home ann, in the console") for end in ("", " failed")]


def test_who_may_only_view_counts_and_does_nothing_else(page: _Page) -> None:
    assert page.ask("letters", VIEWER)["letters"] == 0
    seen = page.ask("preview", VIEWER, to="latest")["seen"]
    asked: dict[str, dict[str, Any]] = {
        "letter": {"partition": 0, "offset": 1},
        "replay": CHOICE,
        "seek": {"plan": PLAN.model_dump(), "seen": seen},
    }
    before = page.audit
    for question, body in asked.items():
        with pytest.raises(Forbidden):
            page.ask(question, VIEWER, **body)
    assert [each[0] for each in page.operations.done] == ["letters"]
    assert page.audit == before


def test_what_is_done_is_remembered_before_it_is_done(page: _Page) -> None:
    with pytest.raises(NotFound):
        page.ask("letter", partition=0, offset=1)
    page.ask("replay", **CHOICE)
    assert [event for event, _ in page.audit[-2:]] == ["dead letter looked at", "stream.replay"]
    assert page.operations.done[0][2] == "home ann, in the console"


@pytest.mark.parametrize(
    ("question", "asked", "kind"),
    [
        ("letter", {"partition": -1, "offset": 0}, BadInput),
        ("letters", {"before": [{"partition": 0}]}, BadInput),
        ("replay", CHOICE | {"letters": 0}, BadInput),
        ("replay", CHOICE | {"choice": {"ranges": []}}, BadInput),
        ("seek", {"plan": {"to": "x", "parts": []}}, BadInput),
        ("delete", {}, NotFound),
    ],
)
def test_what_is_no_question_is_refused(page: _Page, question: str, asked: dict[str, Any], kind: type[HeadraceError]) -> None:
    with pytest.raises(kind):
        page.ask(question, **asked)
    assert page.operations.done == []
