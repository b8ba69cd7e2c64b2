"""The first lines of `headrace status`: what is wrong, how much there is, and why a replica ended."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from cluster.commands.feeds import FeedView
from cluster.commands.models import AppView, ModelView
from cluster.commands.versions import VersionView
from cluster.signature import Signature
from headrace.cli.screens.status import APPS_MOST, ROWS_MOST, shown
from headrace.cli.screens.summary import counts, wrong
from headrace.local.ray.replaced import in_order
from headrace.local.ray.where import NodeView, node_views
from headrace.local.run_state import Addresses
from headrace.local.status import DoorView, Overview

NOW_S, DAY_S = 1000.0, 86_400.0


def model(name: str = "digits", stable: int | None = 1, **app: Any) -> ModelView:
    told = {"app": f"{name}--v1", "status": "ready", "replicas": 2, "target_replicas": 2, "message": "", **app}
    return ModelView(
        name=name, stable=stable, candidate=None, serving=None, plan=None, versions=(), apps=(AppView(**told),), rollout=None
    )


def feed(status: str, wanted: str = "running", message: str = "") -> FeedView:
    told = {"kind": "stream", "name": "s", "model": "digits", "wanted": wanted, "status": status, "message": message}
    return FeedView.model_validate({**told, "replicas": 1, "spec": {}})


def overview(**changes: Any) -> Overview:
    node = NodeView(id="a", address="127.0.0.1", state="alive", is_head=True, resources={})
    door = DoorView(http="127.0.0.1:8000", grpc=None, is_open=True, gateways=1)
    well = {"addresses": Addresses(dashboard="http://d"), "doors": (door,), "nodes": (node,), "table": 1, "tick_s": NOW_S - 2}
    return Overview(**{**well, "models": (model(),), "feeds": (feed("ready"),), **changes})


def secured(left_s: float, trouble: str = "") -> DoorView:
    """A door whose certificate ends after so long."""
    told = {"certificate_ends_s": NOW_S + left_s, "trouble": trouble}
    return DoorView.model_validate({"http": "h:1", "grpc": None, "is_open": True, "gateways": 1, **told})


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert wrong(overview(), NOW_S) == ()
    assert wrong(overview(doors=(secured(15 * DAY_S),)), NOW_S) == ()
    assert wrong(overview(feeds=(feed("stopped", wanted="paused"), feed("starting"))), NOW_S) == ()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tick_s": NOW_S - 60}, "the controller has not looked for 60 s"),
        ({"nodes": None}, "the Ray dashboard at http://d does not answer"),
        (
            {"nodes": None, "token_refused": True},
            "the Ray dashboard at http://d refuses the token: set RAY_AUTH_TOKEN_PATH to the cluster's",
        ),
        ({"left_out": ("a, version 1f of the image: no key",)}, "left out: a, version 1f of the image: no key"),
        ({"doors": (DoorView(http="h:1", grpc=None, is_open=False, gateways=0),)}, "the door at h:1 is closed"),
        ({"doors": (DoorView(http="h:1", grpc=None, is_open=True, gateways=0),)}, "no gateway is up behind the door at h:1"),
        (
            {"doors": (secured(13 * DAY_S),)},
            "the certificate of the door at h:1 ends at 1970-01-14T00:16:40Z: renew it",
        ),
        ({"doors": (secured(-1.0),)}, "the certificate of the door at h:1 ended at 1970-01-01T00:16:39Z: renew it"),
        ({"doors": (secured(90 * DAY_S, "x.pem not taken up"),)}, "the door at h:1: x.pem not taken up"),
        ({"models": (model(replicas=1, message="out of memory"),)}, "digits--v1: 1 of 2 replicas: out of memory"),
        ({"models": (model(status="failed", replicas=0, message="no file"),)}, "digits--v1: failed: no file"),
        ({"models": (model().model_copy(update={"fault": "a mistake"}),)}, "digits: a mistake"),
        ({"feeds": (feed("failed", message="no broker"),)}, "stream s: failed: no broker"),
        ({"feeds": (feed("stopped"),)}, "stream s: stopped"),
    ],
)
def test_each_thing_that_is_wrong_has_a_line(changes: dict[str, Any], line: str) -> None:
    assert wrong(overview(**changes), NOW_S) == (line,)


def test_the_counts_stand_in_one_line() -> None:
    assert counts(overview(models=(model("a"), model("b", replicas=1)))) == "2 models, 3 of 4 replicas, 1 stream, 1 node"
    assert counts(overview(models=(), feeds=(), nodes=None)) == "0 models"


def actor(**changes: Any) -> dict[str, Any]:
    dead = {"state": "DEAD", "actorClass": "ServeReplica:digits--v1:replicas", "pid": 7, "endTime": 5000}
    return {**dead, "exitDetail": "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End", **changes}


def test_only_replicas_that_ended_by_themselves_are_told_the_newest_last() -> None:
    rows = [
        actor(endTime=9000, exitDetail="... Worker exit detail: Worker exits with\nan exit code 3."),
        actor(),
        actor(exitDetail="The actor is dead because it was killed by `ray.kill`."),
        actor(state="ALIVE"),
        actor(actorClass="ControllerActor"),
    ]
    first, last = in_order(rows)
    assert (first.app, first.pid, first.ended_s) == ("digits--v1", 7, 5.0)
    assert "its process ended at once" in first.why
    assert last.why == "Worker exits with an exit code 3."


def test_the_screen_begins_with_the_summary_and_ends_with_the_logs() -> None:
    console = Console(width=120, record=True, file=None)
    seen = overview(feeds=(feed("failed", message="no broker"),), replaced=in_order([actor()]), logs=("/home/logs",), tick_s=0.0)
    with console.capture() as captured:
        console.print(shown(seen))
    lines = [line.strip() for line in captured.get().splitlines()]
    assert lines[0].startswith("the controller has not looked for")
    assert lines[1] == "stream s: failed: no broker"
    assert lines[2] == "1 model, 2 of 2 replicas, 1 stream, 1 node"
    assert lines[-1] == "logs: /home/logs"
    assert any("its process ended at once" in line for line in lines)


def test_nodes_are_told_with_their_zone_and_what_runs_there() -> None:
    def row(node: str, **more: object) -> dict[str, object]:
        return {"node_id": node, "node_ip": f"10.0.0.{node}", "state": "ALIVE", "is_head_node": node == "1", **more}

    def app(*nodes: str, state: str = "RUNNING") -> dict[str, object]:
        return {"deployments": {"d": {"replicas": [{"node_id": node, "state": state} for node in nodes]}}}

    rows = [
        row("3", state="DEAD", resources_total=None, labels=None),
        row("2", resources_total={"CPU": 8.0, "node:10.0.0.2": 1.0}, labels={"ray.io/availability-zone": "a", "pool": "cpu"}),
        row("1"),
    ]
    head, worker, dead = node_views(rows, {"gateway": app("1"), "digits--v1": app("2", "2"), "old": app("2", state="STOPPING")})
    assert (head.is_head, head.zone, head.runs) == (True, "", {"gateway": 1})
    assert (worker.zone, worker.resources, worker.runs) == ("a", {"CPU": 8.0}, {"digits--v1": 2})
    assert (dead.state, dead.runs) == ("dead", {})
    gone = "Expected termination: received SIGTERM"
    (left, lost) = node_views(
        [row("4", state="DEAD", state_message=gone), row("5", state="DEAD", state_message="Unexpected termination: no beat")], {}
    )
    assert {left.state, lost.state} == {"left", "dead"}
    seen = overview().model_copy(update={"nodes": (head, left, lost)})
    assert [line for line in wrong(seen, 0.0) if line.startswith("node")] == ["node 10.0.0.5 is dead"]
    assert counts(seen).endswith("2 nodes")


def serving(name: str, versions: int = 1, **app: Any) -> ModelView:
    """A model whose newest version serves."""
    made = [
        VersionView(
            model=name,
            version=number,
            artifact_uri="file:///a",
            digest="d",
            engine="onnx",
            signature=Signature(inputs=(), outputs=()),
            created_s=1.0,
            role="stable" if number == versions else "idle",
        )
        for number in range(1, versions + 1)
    ]
    told = model(name, versions, app=f"{name}--v{versions}", **app)
    return told.model_copy(update={"versions": tuple(made)})


def screen(seen: Overview, *, everything: bool = False) -> str:
    console = Console(width=180, color_system=None, highlight=False, markup=False)
    with console.capture() as told:
        console.print(shown(seen, everything=everything))
    return told.get()


def test_so_many_versions_as_can_be_read_are_all_shown() -> None:
    told = screen(overview(models=tuple(serving(f"m{number}", 2) for number in range(ROWS_MOST // 2))))
    assert "not shown" not in told
    assert told.count(" idle ") == told.count(" stable ") == ROWS_MOST // 2


def test_of_more_versions_those_that_are_idle_are_counted() -> None:
    told = screen(overview(models=tuple(serving(f"m{number}", 20) for number in range(10))))
    assert "not shown: 190 idle versions; `headrace status --all` shows all" in told
    assert all(f"m{number}     20       stable  ready" in told for number in range(10))


def test_of_more_models_only_those_are_shown_that_do_not_rest() -> None:
    rest = tuple(serving(f"rests-{number}", 3) for number in range(1000))
    ill, removed = (
        serving("ill", 2, status="unhealthy", message="no GPU"),
        serving("gone").model_copy(update={"removing": "waits"}),
    )
    starting = serving("begins", status="starting", replicas=0)
    seen = overview(models=(*rest, ill, removed, starting))
    told = screen(seen)
    assert "not shown: 1000 models that rest, 2001 idle versions; `headrace status --all` shows all" in told
    assert "rests-" not in told
    assert [line.split()[0] for line in told.splitlines() if "stable" in line] == ["ill", "gone", "begins"]
    whole = screen(seen, everything=True)
    assert whole.count("rests-") == 3000
    assert "not shown" not in whole


def test_where_nothing_rests_the_first_are_shown_and_the_rest_counted() -> None:
    seen = overview(models=tuple(serving(f"m{number}", status="unhealthy") for number in range(300)))
    told = screen(seen)
    assert f"not shown: {300 - ROWS_MOST} versions of others; `headrace status --all` shows all" in told
    assert f"not shown: {301 - ROWS_MOST} more of what is wrong" in told  # the controller has not looked either
    assert told.count("\n") < 3 * ROWS_MOST


def test_a_node_with_many_apps_names_some() -> None:
    runs = {f"app-{number:03}": 1 for number in range(1000)}
    node = NodeView(id="a", address="127.0.0.1", state="alive", is_head=True, resources={}, runs=runs)
    told = screen(overview(nodes=(node,)))
    assert f"{1000 - APPS_MOST} apps more" in told
    assert "app-011" not in told
    assert "app-999" in screen(overview(nodes=(node,)), everything=True)
