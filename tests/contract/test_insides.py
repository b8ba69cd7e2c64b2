"""The private names that adapters use: each is there in the pinned release, and where one is not, what hangs on it is said."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.handle import DeploymentHandle

from cluster.errors import Unreachable
from consumers.batch import ray_inside
from deployments.engines import onnxruntime_inside
from deployments.gateway.console import node_loads
from deployments.insides import Inside
from deployments.serving import serve_inside, worker_setup
from deployments.transport.lines import serve_book
from deployments.transport.lines.serve_book import HandleBook, ReplicaBook, line_name, route_on_this_loop

TABLES = (
    *ray_inside.TABLE,
    *serve_inside.TABLE,
    *serve_book.TABLE,
    *onnxruntime_inside.TABLE,
    *worker_setup.TABLE,
    *node_loads.TABLE,
)


@pytest.mark.parametrize("inside", TABLES, ids=lambda inside: f"{inside.module}.{inside.name}")
def test_each_name_is_there_in_the_pinned_release(inside: Inside) -> None:
    assert inside.find() is not None
    assert inside.without


@pytest.mark.parametrize("gone", [Inside("ray._no_such_module", "x", "nothing works"), Inside("ray", "x.y", "nothing works")])
def test_a_name_that_is_gone_is_said_with_what_it_costs(gone: Inside, caplog: pytest.LogCaptureFixture) -> None:
    assert gone.probe() is None
    assert "nothing works" in caplog.text


class Router:
    """A handle of Serve, as far as the book looks, without the names that are `gone`."""

    def __init__(self, *gone: str) -> None:
        self.counted: list[tuple[str, str]] = []
        parts: dict[str, dict[str, Any]] = {
            "_metrics_manager": {
                "inc_num_running_requests_for_replica": lambda replica: self.counted.append(("began", replica)),
                "dec_num_running_requests_for_replica": lambda replica: self.counted.append(("ended", replica)),
            },
            "_request_router": {
                "curr_replicas": {"r1": SimpleNamespace(node_id="n", max_ongoing_requests=3)},
                "on_replica_actor_unavailable": lambda replica: self.counted.append(("doubt", replica)),
            },
        }
        found = {
            name: SimpleNamespace(**{key: value for key, value in inner.items() if key not in gone})
            for name, inner in parts.items()
            if name not in gone
        }
        self._router = SimpleNamespace(_asyncio_router=SimpleNamespace(**found))


def test_calls_of_lines_are_counted_where_serve_counts_its_own() -> None:
    handle = Router()
    book = HandleBook(handle)
    assert list(book.replicas()) == ["r1"]
    book.began("r1")
    book.ended("r1")
    book.doubt("r1")
    assert handle.counted == [("began", "r1"), ("ended", "r1"), ("doubt", "r1")]


def test_a_chooser_of_ours_is_told_of_calls_by_lines() -> None:
    handle, told = Router(), list[tuple[str, str]]()
    chooser = handle._router._asyncio_router._request_router
    chooser.began_by_line, chooser.ended_by_line = (
        lambda one: told.append(("began", one)),
        lambda one: told.append(("ended", one)),
    )
    book = HandleBook(handle)
    assert book.replicas()
    book.began("r1")
    book.ended("r1")
    assert told == [("began", "r1"), ("ended", "r1")]


@pytest.mark.parametrize(
    "gone",
    [
        "_metrics_manager",
        "_request_router",
        "curr_replicas",
        "inc_num_running_requests_for_replica",
        "dec_num_running_requests_for_replica",
    ],
)
def test_where_serve_counts_otherwise_there_are_no_lines_and_nothing_raises(gone: str) -> None:
    handle = Router(gone)
    book = HandleBook(handle)
    assert book.replicas() == {}
    book.began("r1")
    book.ended("r1")
    book.doubt("r1")
    assert handle.counted == []


def test_a_replica_that_stands_still_is_found_by_serve_itself_where_it_cannot_be_told() -> None:
    handle = Router("on_replica_actor_unavailable")
    book = HandleBook(handle)
    assert list(book.replicas()) == ["r1"]
    book.doubt("r1")
    book.began("r1")
    assert handle.counted == [("began", "r1")]
    assert list(book.replicas()) == ["r1"]


def test_a_count_that_takes_something_else_ends_the_lines_but_not_the_call(caplog: pytest.LogCaptureFixture) -> None:
    handle = Router()
    handle._router._asyncio_router._metrics_manager.inc_num_running_requests_for_replica = lambda: None
    book = HandleBook(handle)
    assert book.replicas()
    for _ in range(3):
        book.began("r1")
    assert book.replicas() == {}
    assert caplog.text.count("another account") == 1


def test_replicas_that_are_named_or_seen_otherwise_have_no_lines() -> None:
    class Named:
        def to_full_id_str(self) -> str:
            return "m#r1"

    seen = SimpleNamespace(node_id="n", max_ongoing_requests=3)
    book = HandleBook(Router())
    assert book.line_to(Named(), seen, "n") == (line_name("n", Named()), 3)
    assert book.line_to(Named(), seen, "another") is None
    assert book.replicas() != {}
    assert book.line_to("r1", seen, "n") is None  # a text has no such name
    assert book.replicas() == {}
    assert HandleBook(Router()).line_to(Named(), SimpleNamespace(node_id="n"), "n") is None


def test_a_replica_that_serve_keeps_otherwise_has_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for worker in (None, SimpleNamespace(actors={}, actor_id="a"), SimpleNamespace(actors={"a": object()}, actor_id="a")):
        monkeypatch.setattr(serve_book, "_WORKER", SimpleNamespace(probe=lambda worker=worker: worker))
        with pytest.raises((AttributeError, KeyError)):  # as the replica expects, which then leaves its calls to Serve
            ReplicaBook()


def test_a_handle_that_routes_otherwise_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    route_on_this_loop(SimpleNamespace())
    route_on_this_loop(SimpleNamespace(_init=lambda: None))
    assert caplog.text.count("thread of their own") == 2
    asked: list[dict[str, Any]] = []
    route_on_this_loop(SimpleNamespace(_init=lambda **options: asked.append(options)))
    assert asked == [{"_run_router_in_separate_loop": False}]
    assert callable(DeploymentHandle._init)


def test_a_serve_without_the_controllers_door_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Inside("ray.serve.context", "_gone", "nothing is deployed")
    monkeypatch.setattr(serve_inside, "_CLIENT", gone)
    with pytest.raises(Unreachable, match=r"no ray\.serve\.context\._gone: nothing is deployed"):
        serve_inside.ask("get_serve_instance_details")
    monkeypatch.setattr(serve_inside, "_CLIENT", SimpleNamespace(find=lambda: lambda: SimpleNamespace(_controller=object())))
    with pytest.raises(Unreachable, match="this Ray has no"):
        serve_inside.ask("get_serve_instance_details")
    monkeypatch.setattr(serve_inside, "_DEPLOYMENT_ID", gone)
    with pytest.raises(Unreachable, match="this Ray has no"):
        serve_inside.scale("m--v1", "replicas", 2)


def test_answers_of_replicas_come_together_where_they_cannot_come_one_by_one() -> None:
    class Broadcast:
        def results(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
            assert (timeout_s, return_exceptions) == (2.0, True)
            return ["a", ValueError("b")]

    first, second = serve_inside.replica_results(Broadcast(), 2.0)
    assert first.get(2.0) == "a"
    with pytest.raises(ValueError, match="b"):
        second.get(2.0)


def test_where_a_code_of_onnxruntime_is_not_known_any_error_is_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(onnxruntime_inside.session_errors()) > {RuntimeError, ValueError, TypeError}
    assert Exception not in onnxruntime_inside.session_errors()
    monkeypatch.setattr(
        onnxruntime_inside, "TABLE", (*onnxruntime_inside.TABLE, Inside("onnxruntime", "NoSuchCode", "it counts"))
    )
    assert onnxruntime_inside.session_errors() == (Exception,)
