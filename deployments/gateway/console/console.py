"""The console's answers under `/console`: files, sessions, one stream of what happens, and the commands behind its buttons."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.commands.registry import COMMANDS
from cluster.commands.watch.history import HISTORY
from cluster.control_plane import ControlPlane
from cluster.error_wire import to_wire
from cluster.errors import BadInput, HeadraceError, NotFound
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.console.batch_runs import BatchLedgers, BatchRuns
from deployments.gateway.console.files import HEADERS, ConsoleFile, load_files
from deployments.gateway.console.logging_in import ConsoleSessions, cookie, session_in
from deployments.gateway.console.nodes import NodeSeen
from deployments.gateway.console.stream_pages import StreamPages, actor_of
from deployments.gateway.console.streams import StreamOperations
from deployments.gateway.console.version_pages import VersionPages
from deployments.gateway.console.watching import Watching
from deployments.gateway.dataplane import OUR_FAULT
from deployments.gateway.http.asgi import Disconnected, Reply, Request, Send, json_object, json_reply, status_of
from deployments.gateway.http.callers import Callers, ForeignCaller
from deployments.gateway.http.infer import HttpInfer, read_head
from deployments.observe.use_log import UseLog

BEHIND_BUTTONS = frozenset(
    {
        "rollout.start",
        "rollout.pause",
        "rollout.resume",
        "rollout.promote",
        "rollout.abort",
        "rollout.history",
        "model.show",
        "model.scale",
        "feed.show",
        "feed.pause",
        "feed.resume",
        "batch.run",
        "batch.resume",
        "batch.cancel",
        "audit.search",
        "drift.status",
        "drift.clear",
        "quality.clear",
        HISTORY.name,
    }
)
BODY_MOST_BYTES = 64 << 10
STREAM_BODY_MOST_BYTES = 1 << 20  # a plan has each partition

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """`secret` is what gateways share: see `shared_secret`. `nodes` asks for the machines of the cluster, and may block.
    `streams` acts on streams; None: nobody does. `ledgers` makes what reads the runs of batches, when it is first asked for, and
    may block; None: they are not read. `uses` counts which rows are looked at; None: nobody does."""

    secret: bytes = b""
    nodes: Callable[[], tuple[NodeSeen, ...]] = tuple
    streams: StreamOperations | None = None
    ledgers: Callable[[], BatchLedgers] | None = None
    uses: UseLog | None = None


class Console:
    """Used on one event loop. `close` is not needed: its streams end with `admission.ending`."""

    def __init__(
        self,
        control: ControlPlane,
        guard: Guard,
        callers: Callers,
        admission: Admission,
        release: str,
        infer: HttpInfer,
        settings: ConsoleSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        settings = settings or ConsoleSettings()
        self._control, self._callers, self._admission = control, callers, admission
        self._release, self._infer = release, infer
        self._sessions = ConsoleSessions(guard, control, settings.secret, clock)
        self._streams = StreamPages(control, settings.streams, settings.uses)
        self._batches, self._versions = BatchRuns(control, settings.ledgers, settings.uses), VersionPages(control)
        self.watching = Watching(control, release, settings.nodes, clock=clock)
        self._files: Mapping[str, ConsoleFile] | None = None

    async def answer(self, request: Request, send: Send) -> None:
        """Answers one request whose path is `/console` or below."""
        try:
            request.check_head()
            self._callers.check(request.headers)
            if request.path == "/console/events" or request.path.startswith("/console/events/"):
                await self._stream(request, send)
                return
            reply = await self._reply(request)
        except Disconnected:
            return
        except HeadraceError as error:
            reply = _refused(error)
        except Exception as error:  # noqa: BLE001 (it is logged)
            _log.error("%s %s", request.method, request.path, exc_info=error)
            reply = json_reply({"error": {"kind": "HeadraceError", "what": OUR_FAULT, "where": "console", "remedy": ""}}, 500)
        await Reply(reply.status, reply.body, reply.content_type, (*reply.headers, *HEADERS)).send(send)

    async def _reply(self, request: Request) -> Reply:
        path = request.path.removeprefix("/console")
        if request.method in ("GET", "HEAD"):
            if path == "":
                return Reply(308, b"", headers=((b"location", b"console/"),))
            return self._me(request) if path == "/me" else await self._file(request, path.removeprefix("/") or "index.html")
        if request.method != "POST":
            return json_reply({"error": f"{request.method} is not possible here"}, 405)
        if path == "/login":
            return await self._login(request)
        if path == "/logout":
            _own_page(request)
            return json_reply({}).with_headers((b"set-cookie", cookie(request, "", 0)))
        if path == "/link":
            return json_reply({"path": f"/console/#code={self._sessions.code(request)}"})
        if path.startswith("/control/"):
            return await self._command(request, path.removeprefix("/control/"))
        match path.split("/")[1:]:
            case ["models", model, "infer"]:
                return await self._score(request, model, None)
            case ["models", model, "versions", version, "infer"]:
                return await self._score(request, model, version)
            case ["models", model, "versions", version, "about"]:
                _own_page(request)
                return json_reply(await self._versions.about(model, version, self._sessions.who(request)))
            case ["batches", name, "runs"]:
                return await self._runs(request, name)
            case ["streams", name, question]:
                _own_page(request)
                caller = self._sessions.commanding(request)
                asked = await _body(request, question, STREAM_BODY_MOST_BYTES)
                return json_reply(await self._streams.answer(name, question, asked, caller))
        raise NotFound(f"nothing at {request.path[:200]}", where="path", remedy="open /console/")

    def _me(self, request: Request) -> Reply:
        """Who is there, and what he may do."""
        caller = self._sessions.who(request)
        grants = [grant.model_dump(mode="json", include={"roles", "models"}) for grant in caller.grants]
        session = bool(session_in(request)) and not caller.anonymous
        told = {"name": caller.name, "anonymous": caller.anonymous, "session": session, "grants": grants}
        return json_reply(told | {"release": self._release})

    async def _login(self, request: Request) -> Reply:
        """A key, or a code from a link, becomes a cookie."""
        _own_page(request)
        kept, until_s = await self._sessions.begin(request, await _body(request, "login"))
        return json_reply({"until_s": until_s}).with_headers((b"set-cookie", kept))

    async def _command(self, request: Request, command: str) -> Reply:
        _own_page(request)
        caller = self._sessions.commanding(request)
        payload = await _body(request, command)
        if command not in BEHIND_BUTTONS:
            raise NotFound(f"the console has no button for {command[:80]!r}", where="command", remedy="use `headrace`")
        if "actor" in COMMANDS[command].request.model_fields:  # of a home's key the audit would say no more than "a person"
            payload["actor"] = actor_of(caller)
        return json_reply(await self._control.call(command, payload, caller))

    async def _runs(self, request: Request, name: str) -> Reply:
        """The runs of a batch; of that which the body names, what it quarantined."""
        _own_page(request)
        caller, asked = self._sessions.who(request), await _body(request, "runs")
        if "quarantine" in asked:
            return json_reply(await self._batches.quarantine(name, str(asked["quarantine"]), caller))
        return json_reply(await self._batches.runs(name, caller))

    async def _score(self, request: Request, model: str, version: str | None) -> Reply:
        """What somebody tries on a model's page: a request like any other, as whoever is logged in."""
        _own_page(request)
        caller = self._sessions.who(request)
        self._admission.enter()
        try:
            body = await request.raw_body()
            return await self._infer.answer(read_head(request.headers, model, version), body, request.lease, caller)
        finally:
            self._admission.leave()

    async def _file(self, request: Request, path: str) -> Reply:
        if self._files is None:
            self._files = await asyncio.to_thread(load_files)
        file = self._files.get(path)
        if file is None:
            raise NotFound(f"nothing at {request.path[:200]}", where="path", remedy="open /console/")
        if request.headers.get(b"if-none-match") == file.tag:
            return Reply(304, b"", file.content_type, ((b"etag", file.tag),))
        told = ((b"etag", file.tag), (b"vary", b"accept-encoding"))
        if b"gzip" in request.headers.get(b"accept-encoding", b""):
            return Reply(200, file.zipped, file.content_type, (*told, (b"content-encoding", b"gzip")))
        return Reply(200, file.plain, file.content_type, told)

    async def _stream(self, request: Request, send: Send) -> None:
        """Server-sent events until the browser leaves, or this gateway ends. Who is no longer let in is told so when he tries
        again."""
        if request.method != "GET":
            raise BadInput("events are read", where="method", remedy="use GET")
        self._sessions.who(request)
        await request.raw_body()
        frames = self.watching.frames(lambda: self._sessions.who(request), _last_id(request), self._admission.ending)
        first = await anext(frames)
        head = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no"), *HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        telling = asyncio.create_task(_tell(frames, send))
        leaving = asyncio.create_task(request.until_gone())
        try:
            await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                await send({"type": "http.response.body", "body": b""})
        finally:
            for task in (telling, leaving):
                task.cancel()
            await asyncio.gather(telling, leaving, return_exceptions=True)
            await frames.aclose()


async def _tell(frames: AsyncGenerator[bytes, None], send: Send) -> None:
    try:
        async for frame in frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
    except HeadraceError as error:
        _log.info("a console is told no more: %s", error.what)
    except Exception as error:  # noqa: BLE001 (it is logged, and the browser tries again)
        _log.error("a console is told no more", exc_info=error)


def _last_id(request: Request) -> str:
    """What a viewer was told last: a browser says so when it tries again by itself, and a page of ours in the path."""
    return request.header(b"last-event-id") or request.path.removeprefix("/console/events").removeprefix("/")


def _own_page(request: Request) -> None:
    """Raises ForeignCaller where the request does not say that a page of ours sent it: a browser always says so."""
    if request.headers.get(b"origin") is None and request.headers.get(b"sec-fetch-site") != b"same-origin":
        what = "nothing says that the console's own page sent this"
        raise ForeignCaller(what, where="Origin", remedy="open /console/ in a browser; programs use /control")


async def _body(request: Request, where: str, most_bytes: int = BODY_MOST_BYTES) -> dict[str, Any]:
    if (request.header(b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
        raise BadInput("this is sent as JSON", where="Content-Type", remedy="send Content-Type: application/json")
    declared = request.header(b"content-length") or ""
    if not declared.isdecimal() or int(declared) > most_bytes:
        raise BadInput(f"a body of {most_bytes} bytes at most, of a told length, is taken", where=where)
    return json_object(await request.body(), where)


def _refused(error: HeadraceError) -> Reply:
    """Without what asks a browser for a name and a password."""
    return json_reply({"error": to_wire(error)}, status_of(error))
