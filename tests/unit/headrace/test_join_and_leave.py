"""`up --join` and `leave`: what they refuse, and what is counted as still here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ray.serve.schema import ApplicationStatus

from cluster.access.policy import Access
from cluster.errors import BadInput, Conflict, HeadraceError, Unreachable
from cluster.state import State
from cluster.store.sql import SqlStore
from deployments.gateway.deployment import GatewaySettings, gateway_application
from deployments.serving.serve_controller import SeenApp, SeenDeployment, SeenReplica, ServeSeen
from headrace.local.home import Home, read_settings
from headrace.local.options import UpOptions
from headrace.local.ray.drain_here import ask_ray, check_not_head, on_node
from headrace.local.repairs.join import JoinedSupervisor, check_joins, forget_run
from headrace.local.repairs.supervise import Supervisor
from headrace.local.run_state import RAYLET, Phase, RunState, load_run, save_run, started


@pytest.mark.parametrize(
    ("options", "named"),
    [(UpOptions(broker=True), "--broker"), (UpOptions(prometheus=True), "--prometheus"), (UpOptions(num_cpus=2), "--num-cpus")],
)
def test_what_needs_a_ray_of_our_own_is_refused_beside_anothers(options: UpOptions, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        check_joins(options)


def test_what_every_cluster_can_have_is_taken() -> None:
    check_joins(UpOptions(host="0.0.0.0", gateways=2, most_gateways=8, gateways_on="door", insecure=True))  # noqa: S104


def a_run(*, owns_ray: bool) -> RunState:
    return RunState(run_id="r", phase=Phase.RUNNING, started_s=0.0, owns_ray=owns_ray, processes=(started(RAYLET, os.getpid()),))


def test_a_joined_run_of_an_earlier_life_is_forgotten_and_a_ray_of_our_own_is_not(tmp_path: Path) -> None:
    home = Home(tmp_path)
    forget_run(home)
    save_run(home, a_run(owns_ray=False))
    forget_run(home)
    assert load_run(home) is None
    save_run(home, a_run(owns_ray=True).model_copy(update={"processes": ()}))
    forget_run(home)
    assert load_run(home) is None


@pytest.mark.parametrize("owns_ray", [True, False])
def test_what_another_headrace_noted_is_forgotten_where_it_had_joined_too(tmp_path: Path, owns_ray: bool) -> None:
    home = Home(tmp_path)
    save_run(home, a_run(owns_ray=owns_ray))
    newer = json.loads(home.run_file.read_bytes()) | {"of_a_later_version": 1}
    home.run_file.write_text(json.dumps(newer), encoding="utf-8")
    if owns_ray:
        with pytest.raises(Conflict, match="written"):
            forget_run(home)
    else:
        forget_run(home)
    assert home.run_file.exists() is owns_ray


def test_a_home_whose_own_ray_runs_joins_no_other(tmp_path: Path) -> None:
    home, raylet = Home(tmp_path), started(RAYLET, os.getpid())
    both = (raylet, raylet.model_copy(update={"role": "gcs_server"}))
    save_run(home, a_run(owns_ray=True).model_copy(update={"processes": both}))
    with pytest.raises(Conflict, match="a Ray of its own"):
        forget_run(home)
    assert load_run(home) is not None


@pytest.mark.parametrize("gives_up", [True, False])
def test_beside_anothers_ray_it_never_gives_up(tmp_path: Path, gives_up: bool) -> None:
    class Refused(Supervisor):
        def _up_once(self) -> HeadraceError | None:
            self.stop()
            return BadInput("the network would reach it", where="--host", remedy="give --access")

    told: list[str] = []
    settings = read_settings({"HEADRACE_HOME": str(tmp_path)})
    supervisor = Refused(UpOptions(), settings, told.append, gives_up=gives_up)
    if gives_up:
        with pytest.raises(BadInput):
            supervisor.run()
    else:
        assert supervisor.run()


@pytest.mark.parametrize("known", [True, False])
def test_access_that_was_applied_once_is_not_applied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    applied: list[str] = []

    def up_once(supervisor: Supervisor) -> None:
        applied.append(supervisor._options.access)
        supervisor.stop()

    monkeypatch.setattr(Supervisor, "_up_once", up_once)
    settings = read_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_STORE_URL": f"sqlite:///{tmp_path}/store.db"})
    store = SqlStore(settings.store_url)
    store.save(store.acquire(), State(), State(access=Access(grants=()) if known else None), ())
    store.close()
    JoinedSupervisor(UpOptions(access="/etc/headrace/access.yaml"), settings, lambda _line: None, gives_up=False).run()
    assert applied == ["" if known else "/etc/headrace/access.yaml"]


def test_a_store_that_is_away_is_waited_for_before_access_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> bool:
        supervisor.stop()
        raise Unreachable("the store is away", where="store", remedy="look at it")

    monkeypatch.setattr("headrace.local.network_access.has_document", away)
    monkeypatch.setattr(Supervisor, "_up_once", lambda _: pytest.fail("it went on"))
    settings = read_settings({"HEADRACE_HOME": str(tmp_path)})
    supervisor = JoinedSupervisor(UpOptions(access="/a.yaml"), settings, lambda _line: None, gives_up=False)
    assert supervisor.run()


def test_what_has_a_replica_on_the_node_is_still_here() -> None:
    def app(*nodes: str | None) -> SeenApp:
        replicas = [SeenReplica(node_id=node, state="RUNNING") for node in nodes]
        return SeenApp(status=ApplicationStatus.RUNNING, deployments={"d": SeenDeployment(status="HEALTHY", replicas=replicas)})

    seen = ServeSeen(applications={"gateway": app("a", "b"), "digits--v1": app("b"), "digits--v2": app(None)})
    assert on_node(seen, "b") == ("digits--v1", "gateway")
    assert on_node(seen, "a") == ("gateway",)
    assert on_node(seen, "c") == ()


def test_the_head_does_not_leave() -> None:
    rows = [{"NodeID": "a", "Resources": {"node:__internal_head__": 1.0}}, {"NodeID": "b", "Resources": {"CPU": 1.0}}]
    check_not_head("b", rows)
    with pytest.raises(Conflict, match="the whole cluster would leave"):
        check_not_head("a", rows)


def test_gateways_ask_for_the_resource_that_their_nodes_alone_have() -> None:
    bound = gateway_application(GatewaySettings(replicas=2, resource="door"))
    actor = bound._bound_deployment.ray_actor_options
    assert actor["resources"] == {"door": 1.0}  # or the first node that joins would take all


@pytest.mark.parametrize(("within_s", "waits_s"), [(200.0, 200.0), (1.0, 30.0)])
def test_a_busy_machine_may_take_all_the_time_there_is_to_ask_ray(
    within_s: float, waits_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(asked: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(asked, timeout)

    monkeypatch.setattr(subprocess, "run", silent)
    with pytest.raises(Unreachable, match=f"within {waits_s:.0f} s"):
        ask_ray("10.0.0.1:6379", "node", within_s)
