"""The short way in, between an HTTP server and two applications that are told apart: Serve's and the gateway's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from deployments.gateway.http.asgi import Reply
from deployments.gateway.http.direct_lane import DirectLane, middlewares

Message = dict[str, Any]
BODY = {"type": "http.request", "body": b"x", "more_body": False}


class Apps:
    """`serve` and `gateway` write down what they are given. The gateway reads the body and waits for `gate`."""

    def __init__(self) -> None:
        self.serve_saw: list[str] = []
        self.gateway_saw: list[str] = []
        self.ended: list[str] = []
        self.bodies: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.serve_saw.append(scope["path"] if scope["type"] == "http" else scope["type"])

    async def gateway(self, scope: Any, receive: Any, send: Any) -> None:
        self.gateway_saw.append(scope["path"])
        try:
            self.bodies.append(await body_of(receive))
            await self.gate.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except asyncio.CancelledError:
            self.ended.append(scope["path"])
            raise


async def body_of(receive: Any) -> bytes:
    """The request's body, whole."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            return body


class Connection:
    """What an HTTP server gives an application: messages in turn, then silence."""

    def __init__(self, *messages: Message) -> None:
        self.queue: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        for message in messages or (BODY,):
            self.queue.put_nowait(message)

    async def receive(self) -> Message:
        return await self.queue.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def scope(path: str = "/v2", kind: str = "http") -> Message:
    return {"type": kind, "path": path, "method": "POST"}


async def no_infer(head: object, body: object) -> Reply:
    raise AssertionError("no request here comes by a connection of uvicorn's")


def fork(apps: Apps) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """The middleware as Serve makes it."""
    (middleware,) = middlewares()
    app: Any = middleware.cls(apps.serve, *middleware.args, **middleware.kwargs)
    return app  # type: ignore[no-any-return]


def play(scene: Callable[[Apps, Callable[[Any, Any, Any], Awaitable[None]]], Awaitable[None]], max_ongoing: int = 8) -> None:
    """Plays a scene with an open lane."""

    async def run() -> None:
        apps = Apps()
        lane = DirectLane(apps.gateway, no_infer, max_ongoing)
        await lane.open()
        try:
            await scene(apps, fork(apps))
        finally:
            await lane.close()
            await lane.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_without_a_gateway_in_the_process_serve_gets_everything() -> None:
    async def scene() -> None:
        apps, connection = Apps(), Connection()
        await fork(apps)(scope(), connection.receive, connection.send)
        assert (apps.serve_saw, apps.gateway_saw) == (["/v2"], [])

    asyncio.run(scene())


def test_the_gateway_gets_requests_and_serve_keeps_its_own() -> None:
    async def scene(apps: Apps, app: Any) -> None:
        for one in (scope(), scope("/-/healthz"), scope("/-/routes"), scope(kind="websocket"), scope("/")):
            connection = Connection()
            await app(one, connection.receive, connection.send)
        assert apps.gateway_saw == ["/v2", "/"]
        assert apps.serve_saw == ["/-/healthz", "/-/routes", "websocket"]

    play(scene)


def test_a_server_on_another_loop_keeps_to_serve() -> None:
    async def scene(apps: Apps, app: Any) -> None:
        async def elsewhere() -> None:
            connection = Connection()
            await app(scope(), connection.receive, connection.send)

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert (apps.serve_saw, apps.gateway_saw) == (["/v2"], [])

    play(scene)


def test_a_closed_lane_finishes_what_is_under_way() -> None:
    async def scene() -> None:
        apps = Apps()
        lane, app = DirectLane(apps.gateway, no_infer, 8), fork(apps)
        await lane.open()
        apps.gate.clear()
        first, second = Connection(), Connection()
        task = asyncio.create_task(app(scope("/first"), first.receive, first.send))
        while not apps.bodies:
            await asyncio.sleep(0)
        await lane.close()
        await app(scope("/second"), second.receive, second.send)
        apps.gate.set()
        await task
        assert first.sent[0]["status"] == 200
        assert (apps.gateway_saw, apps.serve_saw) == (["/first"], ["/second"])

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_too_many_at_a_time_are_refused_at_once() -> None:
    async def scene(apps: Apps, app: Any) -> None:
        apps.gate.clear()
        connections = [Connection() for _ in range(3)]
        tasks = [asyncio.create_task(app(scope(), one.receive, one.send)) for one in connections[:2]]
        while len(apps.bodies) < 2:
            await asyncio.sleep(0)
        await app(scope(), connections[2].receive, connections[2].send)
        start = connections[2].sent[0]
        assert start["status"] == 503
        assert (b"retry-after", b"1") in start["headers"]
        apps.gate.set()
        await asyncio.gather(*tasks)
        assert [one.sent[0]["status"] for one in connections[:2]] == [200, 200]

    play(scene, max_ongoing=2)


def test_the_work_of_a_client_that_hangs_up_ends() -> None:
    async def scene(apps: Apps, app: Any) -> None:
        apps.gate.clear()
        leaves, stays = Connection(), Connection()
        tasks = [asyncio.create_task(app(scope(path), c.receive, c.send)) for path, c in (("/a", leaves), ("/b", stays))]
        while len(apps.bodies) < 2:
            await asyncio.sleep(0)
        leaves.queue.put_nowait({"type": "http.disconnect"})
        await tasks[0]  # and no error: there is nobody to tell
        assert (apps.ended, leaves.sent) == (["/a"], [])
        apps.gate.set()
        await tasks[1]
        assert stays.sent[0]["status"] == 200

    play(scene)


def test_a_slow_upload_loses_nothing_to_the_watch() -> None:
    async def scene(apps: Apps, app: Any) -> None:
        apps.gate.clear()
        slow, quick = Connection({"type": "http.request", "body": b"a", "more_body": True}), Connection()
        first = asyncio.create_task(app(scope("/slow"), slow.receive, slow.send))
        second = asyncio.create_task(app(scope("/quick"), quick.receive, quick.send))
        quick.queue.put_nowait({"type": "http.disconnect"})
        await second  # so the watch has looked at both
        slow.queue.put_nowait({"type": "http.request", "body": b"b", "more_body": False})
        apps.gate.set()
        await first
        assert apps.bodies == [b"x", b"ab"]

    play(scene)


def test_a_request_cancelled_by_its_server_says_so() -> None:
    async def scene(apps: Apps, app: Any) -> None:
        apps.gate.clear()
        connection = Connection()
        task = asyncio.create_task(app(scope(), connection.receive, connection.send))
        while not apps.bodies:
            await asyncio.sleep(0)
        task.cancel()
        done = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)

    play(scene)
