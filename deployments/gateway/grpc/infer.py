"""ModelInfer, from the message to the answer, both bytes: by grpc.aio, by our own server behind a door, and within a stream."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import grpc

from cluster.access.callers import Caller
from cluster.errors import HeadraceError
from deployments.gateway.dataplane import DataPlane, InferCall
from deployments.gateway.grpc.errors import code_of
from deployments.gateway.large import LARGE_BYTES, LargeWork
from deployments.gateway.protocol.grpc_codec import parse_infer, request_from, response_to
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.protocol.response import InferResponse
from deployments.gateway.request_meter import WireProtocol
from deployments.gateway.traced import span_of_request
from deployments.observe.traces.span import Span
from deployments.observe.traces.traceparent import NO_TRACE, CallerTrace

SERVICE: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
TRACED_AS = f"{SERVICE}/ModelInfer"

Parsed = tuple[pb.ModelInferRequest, list[memoryview]]


@dataclass(frozen=True, slots=True)
class GrpcInfer:
    """Counts each request, also one that fails, and sends its trace where it is traced. What is large is read and written off the
    event loop."""

    dataplane: DataPlane
    large: LargeWork

    async def infer(
        self, data: bytes | memoryview, key: bytes | None, timeout_s: float | None, caller: Caller, trace: CallerTrace = NO_TRACE
    ) -> bytes:
        """Answers a ModelInferRequest of that caller, sent with this routing key and trace context, within so much time. Raises
        HeadraceError."""
        return await self._traced(trace, self._read_and_scored(data, key, timeout_s, caller))

    async def parsed(self, data: bytes | memoryview) -> Parsed:
        """The message, and its raw tensors. Raises BadInput."""
        return await self.large.run(parse_infer, data) if len(data) > LARGE_BYTES else parse_infer(data)

    async def scored(
        self, parsed: Parsed, key: bytes | None, timeout_s: float | None, caller: Caller, trace: CallerTrace
    ) -> bytes:
        """As `infer`, for what is parsed already."""
        return await self._traced(trace, self._scored(parsed, key, timeout_s, caller))

    def failed(self, model: str, error: BaseException, caller: Caller | None = None) -> None:
        """Counts a request that ended so; an empty name where it was not read that far, and no caller where he was not known."""
        self.dataplane.requests.failed(model, WireProtocol.GRPC, error, caller)

    async def _traced(self, trace: CallerTrace, work: Coroutine[Any, Any, bytes]) -> bytes:
        """Does the work, and sends its trace where it is traced."""
        tracer, span = self.dataplane.tracer, self._span(trace)
        if tracer is None or span is None:
            return await work
        try:
            with span:
                told = await work
        except HeadraceError as error:
            span.attributes["rpc.response.status_code"] = code_of(error).name
            raise
        else:
            span.attributes["rpc.response.status_code"] = grpc.StatusCode.OK.name
            return told
        finally:
            tracer.finish(span)

    def _span(self, trace: CallerTrace) -> Span | None:
        """That of a call, by OpenTelemetry's names; None where it is not traced."""
        tracer, about = self.dataplane.tracer, {"rpc.system.name": "grpc", "rpc.method": TRACED_AS}
        return None if tracer is None else span_of_request(tracer, trace, TRACED_AS, {**about})

    async def _read_and_scored(
        self, data: bytes | memoryview, key: bytes | None, timeout_s: float | None, caller: Caller
    ) -> bytes:
        try:
            parsed = await self.parsed(data)
        except HeadraceError as error:
            self.failed("", error, caller)
            raise
        return await self._scored(parsed, key, timeout_s, caller)

    async def _scored(self, parsed: Parsed, key: bytes | None, timeout_s: float | None, caller: Caller) -> bytes:
        proto, raw = parsed
        began_s = time.monotonic()
        try:
            response, answer = await self._response_to(proto, raw, key, timeout_s, caller)
        except BaseException as error:
            self.failed(proto.model_name, error, caller)
            raise
        self.dataplane.requests.answered(proto.model_name, response.version, WireProtocol.GRPC, began_s, caller, response.rows)
        return answer

    async def _response_to(
        self, proto: pb.ModelInferRequest, raw: list[memoryview], key: bytes | None, timeout_s: float | None, caller: Caller
    ) -> tuple[InferResponse, bytes]:
        call = InferCall(proto.model_name, proto.model_version, key, timeout_s)
        # What is large and not raw is typed: to read its numbers takes longer than to parse the message did.
        large = not raw and proto.ByteSize() > LARGE_BYTES
        request = await self.large.run(request_from, proto, raw) if large else request_from(proto, raw)
        response = await self.dataplane.infer(call, request, caller)
        if sum(output.array.nbytes for output in response.outputs) > LARGE_BYTES:
            return response, await self.large.run(response_to, response)
        return response, response_to(response)
