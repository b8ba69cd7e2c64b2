"""A real door: what it hands to whom, what it passes on, what it says itself."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest

from deployments.gateway.door.configuration import NOT_DELIVERED
from deployments.gateway.door.haproxy import usable_haproxy
from tests.support.door import LiveDoor, live_door

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"),
    pytest.mark.timeout(120),
]
INFER = "/v2/models/m/infer"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def door() -> Iterator[LiveDoor]:
    with live_door() as opened:
        opened.start()
        yield opened


def ask(door: LiveDoor, method: str, path: str, **how: Any) -> dict[str, Any]:
    answer = httpx.request(method, door.http + path, trust_env=False, timeout=30, **how)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def raw(door: LiveDoor, request: bytes, *, close: bool = False) -> bytes:
    """All that comes back, until the door closes or is silent for a while after an answer."""
    with socket.create_connection((door.settings.host, door.settings.http_port), timeout=30) as caller:
        caller.sendall(request)
        if close:
            caller.shutdown(socket.SHUT_WR)
        answer = caller.recv(1 << 20)
        caller.settimeout(0.2)
        try:
            while piece := caller.recv(1 << 20):
                answer += piece
        except TimeoutError:
            pass
        return answer


def call(door: LiveDoor, method: str = MODEL_INFER, message: bytes = b"x", **how: Any) -> dict[str, Any]:
    with grpc.insecure_channel(door.grpc, options=[("grpc.enable_retries", 0)]) as channel:
        told: dict[str, Any] = json.loads(channel.unary_unary(method)(message, timeout=30, **how))
        return told


@pytest.mark.parametrize(
    ("method", "path", "way"),
    [
        ("POST", INFER, "infer"),
        ("POST", "/v2/models/m/versions/3/infer", "infer"),
        ("POST", "/v2/models/a%20b/infer?x=/infer", "infer"),
        ("GET", INFER, "http"),
        ("POST", "/v2//models/m/infer", "http"),
        ("POST", "/v2/models/m/versions/infer", "http"),
        ("POST", "/v2/models/m/infer/infer", "http"),
        ("POST", "/v1/models/m:predict", "http"),
        ("POST", "/control/status", "http"),
        ("GET", "/", "http"),
        ("GET", "/?x=/v2/models/m/infer", "http"),
        ("DELETE", "/v2/models/m", "http"),
    ],
)
def test_infer_goes_one_way_and_all_else_another(door: LiveDoor, method: str, path: str, way: str) -> None:
    assert ask(door, method, path)["way"] == way


def test_grpc_infer_goes_the_way_of_infer(door: LiveDoor) -> None:
    told = call(door, message=b"abc")
    assert (told["way"], told["bytes"], told["headers"]["te"]) == ("infer", 8, "trailers")


@pytest.mark.parametrize(
    "headers", [{}, {"X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9.9.9.9", "X-Headrace-Peer": "me"}], ids=len
)
def test_the_callers_address_is_passed_on_and_nobody_can_give_another(door: LiveDoor, headers: dict[str, str]) -> None:
    seen = ask(door, "POST", INFER, headers=headers)["headers"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert not {name for name in seen if name == "forwarded" or name.startswith("x-headrace")}
    seen = call(door, metadata=[(name.lower(), value) for name, value in headers.items()])["headers"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert not {name for name in seen if name == "forwarded" or name.startswith("x-headrace")}


def test_of_a_sampled_request_the_door_says_when_it_came(door: LiveDoor) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
    for flag, wanted in (("01", True), ("00", False)):
        headers = {"traceparent": f"{trace}-{flag}", "x-headrace-came": "1"}
        begin_us = time.time_ns() // 1000
        for seen in (ask(door, "POST", INFER, headers=headers)["headers"], call(door, metadata=[*headers.items()])["headers"]):
            assert seen["traceparent"] == headers["traceparent"]
            assert ("x-headrace-came" in seen) is wanted
            if wanted:
                assert begin_us <= int(seen["x-headrace-came"]) <= time.time_ns() // 1000


def test_who_is_two_callers_at_once_is_told_so(door: LiveDoor) -> None:
    url = f"{door.http}/v2/models/pair/infer"
    two = [("authorization", "Bearer a"), ("authorization", "Bearer b")]
    answer = httpx.post(url, headers=two, content=b"{}", trust_env=False, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (400, "Authorization stands there twice: send it once")
    one = httpx.post(url, headers=[("authorization", "Digest a=b, c=d")], content=b"{}", trust_env=False, timeout=30)
    assert one.status_code == 200


@pytest.mark.parametrize("size", [0, 1, 64 << 10, 128 << 10, 1 << 20, 10 << 20])
def test_bodies_of_any_size_arrive_whole(door: LiveDoor, size: int) -> None:
    assert ask(door, "POST", INFER, content=bytes(size))["bytes"] == size

    def pieces() -> Iterator[bytes]:
        yield from (bytes(size // 2), bytes(size - size // 2))

    assert ask(door, "POST", INFER, content=pieces())["bytes"] == size  # chunked
    assert call(door, message=bytes(min(size, 2 << 20)))["bytes"] == min(size, 2 << 20) + 5


def test_a_caller_that_waits_to_be_asked_for_its_body_is(door: LiveDoor) -> None:
    with socket.create_connection((door.settings.host, door.settings.http_port), timeout=30) as caller:
        head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
        caller.sendall(head.encode())
        assert caller.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(b"abc")
        assert b'"bytes": 3' in caller.recv(10_000)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
@pytest.mark.parametrize("close", [False, True], ids=["open", "half closed"])
def test_odd_but_good_requests_are_answered(door: LiveDoor, request_: bytes, close: bool) -> None:
    assert raw(door, request_, close=close).startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))


def big_head(size: int) -> bytes:
    lines = b"".join(b"x-%d: %s\r\n" % (number, 1000 * b"a") for number in range(size // 1008))
    return b"GET / HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n"


@pytest.mark.parametrize("size", [20 << 10, 100 << 10])
def test_a_head_over_the_limit_is_refused_in_json(door: LiveDoor, size: int) -> None:
    head, _, body = raw(door, big_head(size)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431")
    assert b"content-type: application/json" in head
    assert "more than 16384 bytes" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "request_",
    [
        big_head(200 << 10),
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: nine\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nnine\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked, identity\r\n\r\nabc",
    ],
    ids=["200 kB", "garbage", "length", "chunk", "encoding"],
)
def test_what_is_no_http_is_refused_and_its_connection_closed(door: LiveDoor, request_: bytes) -> None:
    """In words that are built into HAProxy, before any rule of ours."""
    with socket.create_connection((door.settings.host, door.settings.http_port), timeout=30) as caller:
        caller.sendall(request_)
        answer = b"".join(iter(lambda: caller.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("how", [["--http2-prior-knowledge"], []], ids=["HTTP/2", "HTTP/1.1"])
def test_who_takes_the_grpc_port_for_http_is_told(door: LiveDoor, how: list[str]) -> None:
    done = subprocess.run(
        ["curl", "-s", *how, "-w", "%{http_code}", f"http://{door.grpc}/v2"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.endswith("405")
    assert "only gRPC" in json.loads(done.stdout[:-3])["error"]


def slow_heads(count: int) -> Callable[[LiveDoor], list[socket.socket]]:
    def open_them(door: LiveDoor) -> list[socket.socket]:
        return [begin(door, b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\n") for _ in range(count)]

    return open_them


def slow_bodies(count: int) -> Callable[[LiveDoor], list[socket.socket]]:
    def open_them(door: LiveDoor) -> list[socket.socket]:
        head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc"
        return [begin(door, head.encode()) for _ in range(count)]

    return open_them


def begin(door: LiveDoor, first: bytes) -> socket.socket:
    caller = socket.create_connection((door.settings.host, door.settings.http_port), timeout=30)
    caller.sendall(first)
    return caller


@pytest.mark.parametrize("attack", [slow_heads(4096), slow_bodies(4096)], ids=["heads", "bodies"])
def test_thousands_of_unfinished_requests_do_not_close_the_door(
    door: LiveDoor, attack: Callable[[LiveDoor], list[socket.socket]]
) -> None:
    callers = attack(door)
    try:
        begun_s = time.monotonic()
        assert ask(door, "POST", INFER, content=b"abc")["bytes"] == 3
        assert call(door)["way"] == "infer"
        assert time.monotonic() - begun_s < 5
    finally:
        for caller in callers:
            caller.close()


def test_what_comes_too_slowly_is_told_so_and_what_comes_fast_enough_is_not() -> None:
    # 16 KiB of head and 128 of body may take a second in all.
    with live_door(least_bytes_per_s=144 << 10) as door:
        door.start()
        with begin(door, b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\n") as head:
            assert head.recv(10_000).startswith(b"HTTP/1.1 408")
        with begin(door, f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc".encode()) as body:
            assert b"too slowly" in body.recv(10_000)
        size = 1 << 20
        with begin(door, f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()) as long:
            for _ in range(16):  # in two seconds
                long.sendall(bytes(size // 16))
                time.sleep(0.125)  # the rate is what is tested
            assert f'"bytes": {size}'.encode() in long.recv(10_000)


def test_only_unanswered_requests_count_against_an_address(machine_address: str) -> None:
    with live_door(host="0.0.0.0", unanswered_most=20) as door:  # noqa: S104 (for a moment, on ports that nobody knows)
        door.start()
        where = (machine_address, door.settings.http_port)
        request = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".replace("/m/", "/slow/").encode()
        asked = [socket.create_connection(where, timeout=30) for _ in range(15)]
        for caller in asked:
            caller.sendall(request)
        more = [socket.create_connection(where, timeout=30) for _ in range(15)]
        for caller in more:  # while 15 are still owed an answer
            caller.sendall(request)
        for caller in (*asked, *more):
            assert caller.recv(10_000).startswith(b"HTTP/1.1 200")
            caller.close()
        with contextlib.ExitStack() as open_:
            callers = []
            for _ in range(60):
                with contextlib.suppress(ConnectionResetError):  # refused before it had come to be
                    callers.append(open_.enter_context(socket.create_connection(where, timeout=30)))
            refused = 60 - len(callers) + sum(is_refused(caller) for caller in callers)
            assert refused >= 30
            with socket.create_connection(("127.0.0.1", door.settings.http_port), timeout=30) as here:
                here.sendall(request)
                assert here.recv(10_000).startswith(b"HTTP/1.1 200")


def is_refused(caller: socket.socket) -> bool:
    caller.settimeout(0.05)
    try:
        return not caller.recv(100)
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.fixture
def machine_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address: str = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


def test_a_command_is_refused_where_no_gateway_is_and_the_answer_says_that_nobody_got_it(door: LiveDoor) -> None:
    with live_door() as other:
        other.start().kill()
        answer = httpx.post(f"{other.http}/control/apply", json={}, trust_env=False, timeout=30)
        assert answer.status_code == 503
        assert (answer.headers["retry-after"], answer.headers[NOT_DELIVERED]) == ("1", "1")
        assert "no replica answers" in answer.json()["error"]
    assert NOT_DELIVERED not in httpx.post(f"{door.http}/control/apply", trust_env=False, timeout=30).headers
