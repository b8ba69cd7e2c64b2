"""The gateway's ASGI application: Open Inference Protocol v2, V1, the control API, a page. The work is elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.access.callers import CLUSTER, Caller
from cluster.commands.registry import COMMANDS
from cluster.commands.watch.metrics import METRICS, MetricsView
from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, HeadraceError, NoCapacity, NotFound
from cluster.versions import EXPLAINS
from deployments.gateway.access.credential import address_in, in_headers
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission, Lease
from deployments.gateway.console.console import Console
from deployments.gateway.dataplane import EXTENSIONS, SERVER_NAME, DataPlane
from deployments.gateway.door.other_gateways import ALONE
from deployments.gateway.http.asgi import (
    Disconnected,
    NotOffered,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    control_error_reply,
    error_reply,
    json_object,
    json_reply,
    ready_reply,
    reply_to,
    wrong_method_reply,
)
from deployments.gateway.http.callers import Callers, ForeignCaller
from deployments.gateway.http.infer import HttpInfer, read_head
from deployments.gateway.http.openapi import openapi_document
from deployments.gateway.http.page import render_page, summary
from deployments.gateway.http.repository import answer_repository_call, is_repository_call
from deployments.gateway.http.traced import answered, http_span
from deployments.gateway.http.v1 import HttpV1
from deployments.gateway.large import LargeWork
from deployments.gateway.repository import Repository
from deployments.gateway.request_meter import WireProtocol
from deployments.observe.exposition import exposed
from deployments.observe.traces.traceparent import HEADER_BYTES, CallerTrace

_NO_WEBSOCKET = json_reply({"error": "no WebSocket is served here (use HTTP, or gRPC's ModelStreamInfer)"}, 400)


ALONE_HEADER = ALONE.encode()
HTTP_DOOR = WireProtocol.HTTP.value


class _WrongMethod(Exception):
    """The path exists, but not for this method."""


@dataclass(frozen=True, slots=True)
class GatewayApp:
    """One ASGI application."""

    dataplane: DataPlane
    repository: Repository
    control: ControlPlane
    guard: Guard
    server_version: str
    max_body_bytes: int
    admission: Admission
    large: LargeWork
    callers: Callers = field(default_factory=Callers.to)
    console: Console | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection event, as ASGI asks."""
        if scope["type"] == "http":
            with Lease(self.admission) as lease:
                request = Request(scope, receive, self.max_body_bytes, lease, self.large)
                # Beside all other requests: a console that is open all day is no work under way.
                if self.console is not None and (request.path == "/console" or request.path.startswith("/console/")):
                    await self.console.answer(request, send)
                else:
                    await self._http(request, send)
        else:
            raise NotImplementedError(f"ASGI {scope['type']} is not served")

    async def _http(self, request: Request, send: Send) -> None:
        reply = await self._reply(request)
        if reply is None:
            return
        if b"upgrade" in request.headers:
            # uvicorn has ended its reading of a request with its head then: what is the body it would take for the next request.
            reply = replace(reply, headers=(*reply.headers, (b"connection", b"close")))
        await reply.send(send)

    async def _reply(self, request: Request) -> Reply | None:
        """What a request is answered, well or badly; None where its caller has gone."""
        try:
            self.admission.enter()
        except NoCapacity as error:
            return error_reply(error)
        watch = asyncio.create_task(_end_when_gone(request, asyncio.current_task()))
        try:
            return await self._route(request)
        except Disconnected:
            return None
        except asyncio.CancelledError:
            if not request.gone:
                raise
            return None
        except _WrongMethod:
            return wrong_method_reply(request.method)
        except Exception as error:  # noqa: BLE001 (`reply_to` logs it)
            return reply_to(error, f"{request.method} {request.path}")
        finally:
            watch.cancel()
            self.admission.leave()

    async def _route(self, request: Request) -> Reply:
        request.check_head()
        if (request.header(b"upgrade") or "").lower() == "websocket":
            return _NO_WEBSOCKET
        segments = [segment for segment in request.path.split("/") if segment]
        if segments[:2] == ["v2", "health"]:
            return await self._health(segments, request)
        if segments[:1] == ["control"] and len(segments) == 2:
            return await self._command(request, segments[1])
        caller = self._caller(request)
        match segments:
            case ["v2", "models", model, "infer"]:
                return await self._infer(request, model, None, caller)
            case ["v2", "models", model, "versions", version, "infer"]:
                return await self._infer(request, model, version, caller)
            case ["v2", "models", model, "explain"]:
                return await self._explain(request, model, None, caller)
            case ["v2", "models", model, "versions", version, "explain"]:
                return await self._explain(request, model, version, caller)
            case ["v1", "models", model] if model.endswith(":explain"):
                return await self._v1_explain(request, model.removesuffix(":explain"), None, caller)
            case ["v1", "models", model, "versions", version] if version.endswith(":explain"):
                return await self._v1_explain(request, model, version.removesuffix(":explain"), caller)
            case ["v1", "models", model] if model.endswith(":predict"):
                return await self._v1_predict(request, model.removesuffix(":predict"), caller)
        if is_repository_call(segments):
            _only_post(request)
            self.callers.check(request.headers)
            return await answer_repository_call(self.repository, caller, segments, request)
        if segments[:1] == ["v2"] and (missing := _not_offered(segments[1:])):
            raise NotOffered(missing[0], where=f"/v2/{segments[1]}", remedy=missing[1])
        return _read(request, await self._describe(segments, request, caller))

    def _caller(self, request: Request) -> Caller:
        """Who asks. Raises Unauthenticated, and OverQuota."""
        behind_door = self.guard.behind_door
        if behind_door and ALONE_HEADER in request.headers and request.path.endswith("/stats"):
            return CLUSTER  # another gateway, whose caller may; from callers the door takes such headers away
        return self.guard.admitted(in_headers(request.headers, behind_door=behind_door), self._address(request))

    def _address(self, request: Request) -> bytes:
        return address_in(request.headers, behind_door=self.guard.behind_door)

    async def _health(self, segments: list[str], request: Request) -> Reply:
        """Whether it is up: for anybody, who learns no more."""
        reply = None
        match segments[2:]:
            case ["live"]:
                reply = json_reply({"live": True})
            case ["ready"]:
                ready = await self.dataplane.ready()
                reply = ready_reply({"ready": ready}, ready)
        return _read(request, reply)

    async def _describe(self, segments: list[str], request: Request, caller: Caller) -> Reply | None:
        """What only tells; None where there is no such path."""
        plane, alone = self.dataplane, ALONE_HEADER in request.headers
        match segments:
            case []:
                return self._front_page(request, caller)
            case ["metrics"]:
                return await self._metrics(request, caller)
            case ["v2"]:
                return json_reply({"name": SERVER_NAME, "version": self.server_version, "extensions": EXTENSIONS})
            case ["openapi.json"]:
                return json_reply(openapi_document(self.server_version))
            case ["v2", "models", "stats"]:
                return json_reply(await plane.statistics(alone=alone, caller=caller))
            case ["v2", "models", model, "stats"]:
                return json_reply(await plane.statistics(model, alone=alone, caller=caller))
            case ["v2", "models", model, "versions", version, "stats"]:
                return json_reply(await plane.statistics(model, version, alone=alone, caller=caller))
            case ["v2", "models", model] | ["v2", "models", model, "versions", _] if len(segments) != 4:
                named = segments[4] if len(segments) == 5 else None
                return json_reply(plane.model_metadata(model, named, caller=caller))
            case ["v2", "models", model, "ready"]:
                return await self._model_ready(caller, model)
            case ["v2", "models", model, "versions", version, "ready"]:
                return await self._model_ready(caller, model, version)
            case ["v2", "models", model, "config"]:
                return self._config(caller, model)
            case ["v2", "models", model, "versions", version, "config"]:
                return self._config(caller, model, version)
            case ["v1", "models"]:
                return json_reply({"models": [route.model for route in plane.models(caller)]})
            case ["v1", "models", model]:
                return await self._model_ready(caller, model)
        return None

    def _config(self, caller: Caller, model: str, version: str | None = None) -> Reply:
        self.dataplane.check_sees(caller, model)
        return json_reply(self.repository.config(model, version))

    async def _metrics(self, request: Request, caller: Caller) -> Reply:
        """The sums as they are now: where the controller is away, the scrape fails, and nobody takes old ones for new."""
        seen = MetricsView.model_validate(await self.control.call(METRICS.name, {}, caller))
        body, content_type = await self.large.run(exposed, seen, request.header(b"accept") or "")
        return Reply(200, body, content_type.encode())

    async def _model_ready(self, caller: Caller, model: str, version: str | None = None) -> Reply:
        ready = await self.dataplane.model_ready(model, version, caller=caller)
        return ready_reply({"name": model, "ready": ready}, ready)

    def _front_page(self, request: Request, caller: Caller) -> Reply:
        scheme = "https" if request.header(b"x-forwarded-proto") == "https" else "http"
        models, url = self.dataplane.models(caller), f"{scheme}://{request.header(b'host') or '127.0.0.1:8000'}"
        if "text/html" not in (request.header(b"accept") or ""):
            return json_reply(summary(models, url))
        return Reply(200, render_page(models, self.server_version, url), b"text/html; charset=utf-8")

    async def _infer(self, request: Request, model: str, version: str | None, caller: Caller) -> Reply:
        return await self._traced(request, self._inferred(request, model, version, caller), pinned=version is not None)

    async def _explain(self, request: Request, model: str, version: str | None, caller: Caller) -> Reply:
        route = "/v2/models/{model}/explain" if version is None else "/v2/models/{model}/versions/{version}/explain"
        return await self._traced(request, self._inferred(request, model + EXPLAINS, version, caller), route=route)

    async def _traced(
        self, request: Request, work: Coroutine[Any, Any, Reply], *, pinned: bool = False, route: str = ""
    ) -> Reply:
        """Does the work, and sends its trace where it is traced."""
        tracer = self.dataplane.tracer
        span = http_span(tracer, CallerTrace(request.headers.get(HEADER_BYTES, b"")), pinned=pinned, route=route)
        return await work if span is None else await answered(tracer, span, work)

    async def _inferred(self, request: Request, model: str, version: str | None, caller: Caller) -> Reply:
        _only_post(request)
        head = read_head(request.headers, model, version)
        infer = HttpInfer(self.dataplane, self.large, self.max_body_bytes)
        return await infer.answer(head, await request.raw_body(), request.lease, caller)

    async def _v1_predict(self, request: Request, model: str, caller: Caller) -> Reply:
        _only_post(request)
        scoring = HttpV1(self.dataplane, self.large).predict(request, model, caller)
        return await self._traced(request, scoring, route="/v1/models/{model}:predict")

    async def _v1_explain(self, request: Request, model: str, version: str | None, caller: Caller) -> Reply:
        _only_post(request)
        return await HttpV1(self.dataplane, self.large).explain(request, model, version, caller)

    async def _command(self, request: Request, command: str) -> Reply:
        _only_post(request)
        try:
            self.callers.check(request.headers)
            self._caller(request)  # a stranger's body is not read
            payload = await _payload(request, command)
            # A body may take hours to come: who was revoked meanwhile runs nothing by it.
            caller = self._caller(request).by(HTTP_DOOR, self._address(request))
            return json_reply(await self.control.call(command, payload, caller))
        except HeadraceError as error:
            if isinstance(error, ForeignCaller):
                self.guard.foreign_page(self._address(request))
            return control_error_reply(error)


def _not_offered(segments: list[str]) -> tuple[str, str] | None:
    """Why a call of Triton's is not answered here, and what to do instead."""
    match segments:
        case [("systemsharedmemory" | "cudasharedmemory"), *_]:
            return "tensors in shared memory are not taken", "send them in the body: binary tensors are as quick on one machine"
        case [("trace" | "logging"), *_] | ["models", _, "trace", *_]:
            return "traces and logs are not set by callers", "see the replicas' logs in Ray's folder"
    return None


async def _end_when_gone(request: Request, task: asyncio.Task[None] | None) -> None:
    """Ends a request's work once its caller has hung up. Before its body is whole, who reads that is told."""
    if await request.until_gone() and task is not None:
        task.cancel()


async def _payload(request: Request, command: str) -> dict[str, Any]:
    # A page on another site can post a form to this address, but not JSON: so no browser is made to run a command.
    if (request.header(b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
        raise BadInput("commands are JSON", where="Content-Type", remedy="send Content-Type: application/json")
    if command not in COMMANDS:
        raise NotFound(f"no command {command[:80]!r}", where="command", remedy=f"commands: {', '.join(COMMANDS)}")
    return json_object(await request.body(), command)


def _read(request: Request, reply: Reply | None) -> Reply:
    """The answer to a question. Raises NotFound where there is none, and for another method."""
    if reply is None:
        raise NotFound(f"nothing at {request.path[:200]}", where="path", remedy="see / for what is served")
    if request.method not in ("GET", "HEAD"):
        raise _WrongMethod
    return reply


def _only_post(request: Request) -> None:
    if request.method != "POST":
        raise _WrongMethod
