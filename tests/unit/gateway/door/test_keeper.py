"""The keeper's life, with a real HAProxy: what callers notice when a process is killed, and when it goes by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from cluster.errors import Conflict, Unreachable
from deployments.gateway.door.files import is_locked
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.haproxy_process import FIRST_WAIT_S, LASTED_S, WAIT_AT_MOST_S, HaproxyProcess, next_wait_s
from deployments.gateway.door.keeper import KEEPER_LOCK, Keeper
from deployments.gateway.door.opening import Door, close_door
from headrace.local.ports import free_port
from tests.support.door import LiveDoor, door_settings, kill, live_door
from tests.support.door_calls import AT_ONCE, Calls
from tests.support.waiting import until

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"),
    pytest.mark.timeout(120),
]
LIMIT_S = 30.0
INFER, SLOW, DEADLY = ("/v2/models/m/infer", "/v2/models/slow/infer", "/v2/models/deadly/infer")
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@contextmanager
def load(door: LiveDoor, *, body_bytes: int, callers: int = 4) -> Iterator[Calls]:
    """Callers by HTTP and by gRPC, as many each, at it all the time. Each counts from its last answer to its next."""
    calls, stop = Calls(LIMIT_S), threading.Event()

    def by_http() -> None:
        with httpx.Client(base_url=door.http, timeout=LIMIT_S, trust_env=False) as client:
            ask_on(lambda: client.post(INFER, content=bytes(body_bytes)).raise_for_status())

    def by_grpc() -> None:
        with grpc.insecure_channel(door.grpc, options=[("grpc.enable_retries", 0), *AT_ONCE]) as channel:
            infer = channel.unary_unary(MODEL_INFER)
            ask_on(lambda: infer(bytes(body_bytes), timeout=LIMIT_S, wait_for_ready=True))

    def ask_on(ask: Callable[[], object]) -> None:
        last_s = time.monotonic()
        while not stop.wait(0.002):
            try:
                ask()
            except (httpx.HTTPError, grpc.RpcError) as error:
                calls.count(repr(error)[:200])
            else:
                now_s = time.monotonic()
                calls.count(None, now_s - last_s)
                last_s = now_s

    with ThreadPoolExecutor(2 * callers) as pool:
        running = [pool.submit(by) for by in (by_http, by_grpc) for _ in range(callers)]
        try:
            yield calls
        finally:
            stop.set()
    for one in running:
        one.result()


@pytest.mark.parametrize("body_bytes", [100, 64 << 10])
def test_a_killed_gateway_costs_nobody_his_answer_while_there_is_another(body_bytes: int) -> None:
    with live_door() as door:
        gateways = [door.start(), door.start()]
        with load(door, body_bytes=body_bytes) as calls:
            for _ in range(3):
                calls.await_answers(200)
                gateways.pop(0).kill()
                calls.await_answers(200)
                gateways.append(door.start())
            calls.await_answers(200)
        assert calls.failed == Counter()
        assert {gateway.slot for gateway in gateways} == {1, 2}


def test_the_only_gateways_death_costs_nobody_his_answer_either() -> None:
    with live_door() as door:
        gateway = door.start()
        with load(door, body_bytes=1000) as calls:
            for _ in range(3):
                calls.await_answers(100)
                gateway.kill()
                gateway = door.start()
            calls.await_answers(100)
        assert calls.failed == Counter()


def test_after_a_killed_haproxy_callers_are_answered_again() -> None:
    """For how long it is away, a proof measures (tests/integration/test_gateways_killed.py): here others have the machine too."""
    with live_door() as door:
        door.start()
        with load(door, body_bytes=1000) as calls:
            for _ in range(3):
                calls.await_answers(200)
                keeper, (killed,) = door.keeper, door.keeper.children()
                kill(killed)
                until(lambda keeper=keeper, killed=killed: keeper.children() not in ([], [killed]), LIMIT_S, every_s=0.005)
                calls.await_answers(200)
        assert calls.failed.total() <= 3 * 8  # those that it was at


def test_after_a_killed_keeper_callers_are_answered_again() -> None:
    with live_door() as door:
        door.start()
        with load(door, body_bytes=1000) as calls:
            for _ in range(3):
                calls.await_answers(200)
                killed, (its_haproxy,) = door.keeper, door.keeper.children()
                kill(killed)
                until(
                    lambda killed=killed: is_locked(door.folder / KEEPER_LOCK) and door.keeper != killed,
                    LIMIT_S,
                    trouble=(ValueError, psutil.Error),
                )
                calls.await_answers(200)
                assert not _runs(its_haproxy)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_request_that_kills_reaches_two_gateways_at_most() -> None:
    with live_door() as door:
        gateways = [door.start() for _ in range(4)]
        with httpx.Client(base_url=door.http, timeout=LIMIT_S, trust_env=False) as client:
            answer = client.post(DEADLY)
            assert answer.status_code == 502
            assert "error" in answer.json()
            until(lambda: sum(gateway.process.poll() is not None for gateway in gateways) == 2, LIMIT_S)
            assert client.post(INFER).status_code == 200
            assert sum(gateway.process.poll() is not None for gateway in gateways) == 2


def test_a_request_that_kills_the_only_gateway_is_handed_to_the_next_and_to_no_more() -> None:
    with live_door() as door, ThreadPoolExecutor(1) as aside:
        first = door.start()
        asked = aside.submit(httpx.post, door.http + DEADLY, timeout=LIMIT_S, trust_env=False)
        first.process.wait(LIMIT_S)
        second = door.spawn()
        try:
            assert second.wait(LIMIT_S) == 9
            answer = asked.result(LIMIT_S)
            assert (answer.status_code, list(answer.json())) == (502, ["error"])
            third = door.start()
            assert third.process.poll() is None
        finally:
            second.kill()
            second.communicate()


def test_a_command_that_kills_is_handed_to_no_other() -> None:
    with live_door() as door:
        gateways = [door.start(), door.start()]
        answer = httpx.post(f"{door.http}/control/deadly", timeout=LIMIT_S, trust_env=False)
        assert answer.status_code == 502
        until(lambda: sum(gateway.process.poll() is not None for gateway in gateways) == 1, LIMIT_S)
        assert httpx.post(f"{door.http}/control/x", timeout=LIMIT_S, trust_env=False).status_code == 200


def waiting(door: LiveDoor, count: int, path: str = INFER, body: bytes = b"") -> list[socket.socket]:
    """So many callers who wait for an answer."""
    request = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    callers = [socket.create_connection((door.settings.host, door.settings.http_port), timeout=LIMIT_S) for _ in range(count)]
    for caller in callers:
        caller.sendall(request)
    return callers


def test_while_there_is_no_gateway_requests_wait_up_to_a_bound_for_one() -> None:
    with live_door(held_most=10) as door:
        door.start().kill()
        callers = waiting(door, 15)
        refused = [caller for caller in callers if _soon(caller).startswith(b"HTTP/1.1 503")]
        assert len(refused) == 5
        door.start()
        for caller in callers:
            if caller not in refused:
                assert caller.recv(10_000).startswith(b"HTTP/1.1 200")
            caller.close()


def test_while_there_is_no_gateway_bytes_wait_up_to_a_bound() -> None:
    with live_door(held_bytes=300_000) as door:
        door.start().kill()
        callers = waiting(door, 5, body=bytes(90_000))
        refused = [caller for caller in callers if _soon(caller).startswith(b"HTTP/1.1 503")]
        assert len(refused) == 2
        door.start()
        answers = [caller.recv(10_000) for caller in callers if caller not in refused]
        assert all(b'"bytes": 90000' in answer for answer in answers)
        for caller in callers:
            caller.close()


def test_who_has_waited_long_enough_is_told_to_come_again() -> None:
    with live_door(held_s=0.5) as door:
        door.start().kill()
        answer = httpx.post(door.http + INFER, timeout=LIMIT_S, trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"], list(answer.json())) == (503, "1", ["error"])
        assert httpx.get(f"{door.http}/v2", timeout=LIMIT_S, trust_env=False).status_code == 503
        with grpc.insecure_channel(door.grpc, options=[("grpc.enable_retries", 0)]) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(MODEL_INFER)(b"x", timeout=LIMIT_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "no replica answers now" in str(refused.value.details())


def test_who_asks_how_we_are_is_told_at_once_that_no_gateway_is() -> None:
    with live_door() as door:
        door.start().kill()
        until(lambda: _status(f"{door.http}/v2/health/ready") == 503, LIMIT_S)
        assert _status(f"{door.http}/v2/health/live") == 503
        with grpc.insecure_channel(door.grpc, options=[("grpc.enable_retries", 0)]) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=LIMIT_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def _status(url: str) -> int | None:
    """None where there is no answer within a second."""
    try:
        return httpx.get(url, timeout=1.0, trust_env=False).status_code
    except httpx.TimeoutException:
        return None


def test_a_caller_that_hangs_up_waits_no_longer() -> None:
    with live_door(held_most=2) as door:
        door.start().kill()
        for caller in waiting(door, 2):
            assert _soon(caller) == b""
            caller.close()
        until(lambda: _soon(*waiting(door, 1)) == b"", LIMIT_S)  # there is room again


def _soon(caller: socket.socket) -> bytes:
    caller.settimeout(0.3)
    try:
        return caller.recv(10_000)
    except TimeoutError:
        return b""
    finally:
        caller.settimeout(LIMIT_S)


def test_many_that_have_waited_are_all_answered() -> None:
    with live_door() as door:
        door.start().kill()
        callers = waiting(door, 400, body=bytes(20_000))
        door.start()
        for caller in callers:
            assert b'"bytes": 20000' in caller.recv(10_000)
            caller.close()


def test_a_gateway_that_leaves_in_order_costs_nobody_his_answer() -> None:
    with live_door() as door:
        door.start()
        with load(door, body_bytes=1000) as calls:
            for _ in range(2):
                other = door.start()
                calls.await_answers(100)
                other.end()
                calls.await_answers(100)
        assert calls.failed == Counter()


def test_without_gateways_the_keeper_ends_and_takes_its_folder_along() -> None:
    with live_door(idle_s=0.5) as door:
        folder, keeper = door.folder, None
        for gateway in (door.start(), door.start()):
            keeper = door.keeper
            gateway.kill()
        assert keeper is not None
        keeper.wait(LIMIT_S)
        assert not folder.exists()
        again = door.start()
        assert httpx.post(door.http + INFER, timeout=LIMIT_S, trust_env=False).status_code == 200
        again.kill()


def test_the_keeper_ends_with_ray() -> None:
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as raylet,
        live_door(raylet_pid=raylet.pid) as door,
    ):
        door.start()
        keeper, haproxy, folder = door.keeper, door.haproxy, door.folder
        raylet.communicate(b"\n")
        for process in (keeper, haproxy):
            process.wait(LIMIT_S)
        assert not folder.exists()


def test_the_keeper_is_nobodys_child_and_holds_nothing_of_whoever_started_it() -> None:
    with live_door() as door:
        gateway = door.start()
        keeper = door.keeper
        assert keeper.ppid() != gateway.process.pid
        assert os.getpgid(keeper.pid) == keeper.pid
        assert os.getsid(keeper.pid) == os.getsid(gateway.process.pid)
        assert keeper.cwd() == "/"
        gateway.end()  # its standard output ends: nobody else holds it
        assert keeper.is_running()
        assert keeper.environ().get("PATH") == os.environ["PATH"]  # and so a run's id, by which `headrace down` knows it


def test_a_port_that_cant_be_had_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for changes in ({"http_port": port}, {"grpc_port": port}):
            with live_door(**changes) as door, pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{port}: Address already in use"):
                Door.enter(door.settings, door.node)
    with live_door(host="192.0.2.99") as door, pytest.raises(Unreachable, match="Cannot assign requested address"):
        Door.enter(door.settings, door.node)


def test_a_gateway_with_other_settings_waits_until_the_door_is_free() -> None:
    with live_door() as door:
        gateway = door.start()
        other = dataclasses.replace(door.settings, http_port=free_port())
        with pytest.raises(Conflict, match=re.escape(f"have their door at 127.0.0.1:{door.settings.http_port} already")):
            Door.enter(other, door.node)
        gateway.end()
        entered = Door.enter(other, door.node)  # the old keeper was ended
        until(lambda: _answers(other.http_port), LIMIT_S)
        assert not _answers(door.settings.http_port)
        entered.slot.release()
        close_door(door.node)
        assert not _answers(other.http_port)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_haproxy_that_dies_at_once_is_started_ever_more_rarely_and_the_gateway_is_told_why(tmp_path: str) -> None:
    waits = [0.0]
    for _ in range(20):
        waits.append(next_wait_s(waits[-1], 0.01))
    assert waits[1:4] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-1] == WAIT_AT_MOST_S
    assert next_wait_s(WAIT_AT_MOST_S, LASTED_S) == FIRST_WAIT_S <= 0.2


def test_a_keeper_whose_keeping_falls_ends_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def falls(self: HaproxyProcess) -> None:
        raise subprocess.SubprocessError("no fork")

    monkeypatch.setattr(HaproxyProcess, "keep", falls)
    said = list[str]()
    monkeypatch.setattr(Keeper, "_log", lambda _, line: said.append(line))
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as http:
        door = Path(folder, "door")
        door.mkdir()
        asyncio.run(asyncio.wait_for(Keeper(door_settings(), door, http, None).run(), LIMIT_S))
        assert not door.exists()
    assert said == ["the keeper ends: SubprocessError: no fork"]


def test_settings_survive_being_written(tmp_path: str) -> None:
    del tmp_path
    settings = door_settings(run="x")
    assert type(settings)(**dataclasses.asdict(settings)) == settings
