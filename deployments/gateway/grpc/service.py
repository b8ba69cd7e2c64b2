"""`inference.GRPCInferenceService`: reads messages, asks the dataplane and the repository, writes messages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from cluster.access.callers import Caller
from cluster.errors import BadInput, HeadraceError, NotFound, Unreachable
from deployments.gateway.access.credential import in_metadata
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission, Lease
from deployments.gateway.dataplane import EXTENSIONS, OUR_FAULT, SERVER_NAME, DataPlane
from deployments.gateway.grpc.errors import abort, fault_of, text_of
from deployments.gateway.grpc.infer import SERVICE, GrpcInfer, Parsed
from deployments.gateway.protocol.grpc_codec import parse, stream_response
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.repository import Repository
from deployments.observe.traces.traceparent import HEADER, CallerTrace

log = logging.getLogger(__name__)

ROUTING_KEY = "x-routing-key"
LEAST_S = 1e-3
NO_DEADLINE_S = 1e9  # gRPC says that so much, or more, is left of a call without a deadline
STREAM_WINDOW = 32  # requests of one stream that are scored at a time

_IN_THE_MESSAGE = "tensors in shared memory are not taken (send them in the message)"
# Calls of Triton's, refused in words.
NOT_OFFERED = {
    **{
        f"{kind}SharedMemory{call}": _IN_THE_MESSAGE
        for kind in ("System", "Cuda")
        for call in ("Status", "Register", "Unregister")
    },
    "TraceSetting": "traces are not set by callers (see the replicas' logs)",
    "LogSettings": "logs are not set by callers (see the replicas' logs)",
}

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[bytes, Context], Awaitable[Message | bytes]]


class InferenceService:
    """All calls of the service. Takes and gives bytes, since what is not a message at all is the caller's fault too."""

    def __init__(
        self,
        infer: GrpcInfer,
        dataplane: DataPlane,
        repository: Repository,
        guard: Guard,
        server_version: str,
        admission: Admission,
    ) -> None:
        self._infer = infer
        self._dataplane = dataplane
        self._guard = guard
        self._repository = repository
        self._server_version = server_version
        self._admission = admission

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server is given."""
        unary: dict[str, Handler] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(_guarded(name, unary[name], self._admission)) for name in unary
        }
        for name, why in NOT_OFFERED.items():
            methods[name] = grpc.unary_unary_rpc_method_handler(_refused(why))
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._model_stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _server_live(self, data: bytes, context: Context) -> Message:  # noqa: ARG002 - one form for all calls
        parse(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, data: bytes, context: Context) -> Message:  # noqa: ARG002
        parse(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=await self._dataplane.ready())

    async def _model_ready(self, data: bytes, context: Context) -> Message:
        request = parse(pb.ModelReadyRequest, data)
        try:
            ready = await self._dataplane.model_ready(request.name, request.version, caller=self._caller(context))
        except NotFound:  # clients wait for a model by asking until the answer is true
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def _server_metadata(self, data: bytes, context: Context) -> Message:  # noqa: ARG002
        parse(pb.ServerMetadataRequest, data)
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=self._server_version, extensions=EXTENSIONS)

    async def _model_metadata(self, data: bytes, context: Context) -> Message:
        request, caller = parse(pb.ModelMetadataRequest, data), self._caller(context)
        return pb.ModelMetadataResponse(**self._dataplane.model_metadata(request.name, request.version, caller=caller))

    async def _model_infer(self, data: bytes, context: Context) -> bytes:
        return await self._infer.infer(data, *_key_and_time(context), self._caller(context), _trace(context))

    async def _model_stream_infer(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """See `_answer_stream`."""
        try:
            await self._answer_stream(requests, context)
        except Unreachable as error:
            await abort(context, error)

    async def _answer_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answers in the order asked, scoring up to STREAM_WINDOW at a time. A bad request is answered; the stream goes on.

        When the server ends, what was read is answered, and the stream fails with UNAVAILABLE, had the client more or not: raises
        Unreachable.
        """
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        window = asyncio.Semaphore(STREAM_WINDOW)
        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                try:
                    while await window.acquire():  # before the next is read: what was read is always answered
                        data = await anext(requests, None)
                        if data is None:
                            break
                        answers.put_nowait(group.create_task(self._stream_answer(data, context)))
                finally:
                    answers.put_nowait(None)

            reader = group.create_task(read())
            watch = group.create_task(self._admission.ending.wait())
            watch.add_done_callback(lambda _: reader.cancel())
            reader.add_done_callback(lambda _: watch.cancel())
            while (answer := await answers.get()) is not None:
                await context.write(await answer)
                window.release()
        if self._admission.ending.is_set():
            raise Unreachable("it is ending", where="gateway", remedy="open the stream again")

    async def _stream_answer(self, data: bytes, context: Context) -> bytes:
        answer = pb.ModelStreamInferResponse()
        try:
            with _taken(self._admission, len(data)):
                parsed = await self._parsed(data, context)
                answer.infer_response.id = parsed[0].id
                caller = self._caller(context)
                return stream_response(await self._infer.scored(parsed, *_key_and_time(context), caller, _trace(context)))
        except HeadraceError as error:
            answer.error_message = text_of(error)
        except Exception:
            log.exception("ModelStreamInfer")
            answer.error_message = OUR_FAULT
        return answer.SerializeToString()

    async def _parsed(self, data: bytes, context: Context) -> Parsed:
        """Of a stream's message, counted where it is none, as a call of its own is. Raises BadInput, Unauthenticated."""
        try:
            return await self._infer.parsed(data)
        except HeadraceError as error:
            self._infer.failed("", error, self._caller(context))
            raise

    def _caller(self, context: Context) -> Caller:
        """Who calls, also where a stream was opened a while ago. Raises Unauthenticated."""
        metadata = context.invocation_metadata()
        return self._guard.admitted(*in_metadata(metadata, behind_door=self._guard.behind_door))

    async def _model_config(self, data: bytes, context: Context) -> Message:
        request = parse(pb.ModelConfigRequest, data)
        self._dataplane.check_sees(self._caller(context), request.name)
        return pb.ModelConfigResponse(config=pb.ModelConfig(**self._repository.config(request.name, request.version)))

    async def _model_statistics(self, data: bytes, context: Context) -> Message:
        request, caller = parse(pb.ModelStatisticsRequest, data), self._caller(context)
        return pb.ModelStatisticsResponse(**await self._dataplane.statistics(request.name, request.version, caller=caller))

    async def _index(self, data: bytes, context: Context) -> Message:
        request = parse(pb.RepositoryIndexRequest, data)
        entry = pb.RepositoryIndexResponse.ModelIndex
        entries = await self._repository.index(self._caller(context), ready_only=request.ready)
        return pb.RepositoryIndexResponse(
            models=[entry(name=each.name, version=each.version, state=each.state, reason=each.reason) for each in entries]
        )

    async def _load(self, data: bytes, context: Context) -> Message:
        request = parse(pb.RepositoryModelLoadRequest, data)
        await self._repository.load(self._caller(context), _model(request), list(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, data: bytes, context: Context) -> Message:
        # Its only parameter, `unload_dependents`, asks for nothing here: no model depends on another.
        await self._repository.unload(self._caller(context), _model(parse(pb.RepositoryModelUnloadRequest, data)))
        return pb.RepositoryModelUnloadResponse()


def _refused(why: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(_: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, why)

    return answer


@contextlib.contextmanager
def _taken(admission: Admission, size_bytes: int) -> Iterator[None]:
    """While a request of so many bytes is under way. Raises NoCapacity."""
    with Lease(admission) as lease:
        lease.hold(size_bytes)
        admission.enter()
        try:
            yield
        finally:
            admission.leave()


def _guarded(name: str, handler: Handler, admission: Admission) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(data: bytes, context: Context) -> bytes:
        try:
            if admission.ending.is_set():
                raise Unreachable("it is ending", where="gateway", remedy="call again")
            with _taken(admission, len(data)):
                reply = await handler(data, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 (`fault_of` logs it)
            await abort(context, fault_of(name, error))
        return reply if isinstance(reply, bytes) else reply.SerializeToString()

    return answer


def _key_and_time(context: Context) -> tuple[bytes | None, float | None]:
    """What the call's metadata adds. A deadline that has passed by now is as short as can be: nothing is scored for it."""
    key = next((value for name, value in context.invocation_metadata() or () if name == ROUTING_KEY), None)
    left_s = context.time_remaining()
    return (
        (key.encode() if isinstance(key, str) else key) or None,
        max(left_s, LEAST_S) if left_s is not None and left_s < NO_DEADLINE_S else None,
    )


def _trace(context: Context) -> CallerTrace:
    value = next((value for name, value in context.invocation_metadata() or () if name == HEADER), b"")
    return CallerTrace(value.encode() if isinstance(value, str) else value)


def _model(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """Triton's clients name the model in the second field; KServe's in the first, and leave the second empty."""
    name = request.model_name or request.repository_name
    if not name:
        raise BadInput("the model's name is missing", where="model_name")
    return name
