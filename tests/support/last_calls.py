"""Callers that keep calling a gateway while it ends, and how each of their calls ended.

What counts as cut: a call without a whole answer that began before any caller at that door was refused, or of whose 200 a part
came. Once one is refused the gateway takes no more, and the door closes soon: a connection that ends with a request on its way,
which no server can avoid and HTTP allows (RFC 9112, 9.5), is a refusal like any other.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum

import grpc
import orjson

from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.protocol.proto import inference_pb2 as pb
from tests.support.models import INPUT, rows

HTTP, GRPC = "HTTP", "gRPC"
CALLERS = {HTTP: 4, GRPC: 2}  # of each model
PAUSE_S = 0.005  # between two calls of a caller
LIMIT_S = 120.0
NOBODY = b"gateway: no replica answers now"  # says HAProxy
AT_THE_DOOR = ("it is ending", "failed to connect", NOBODY.decode())
# What arrives as grpc.aio stops, it says is cancelled; HAProxy, where it is the front, says nothing of the kind.
NOT_TAKEN = {grpc.StatusCode.UNAVAILABLE} | ({grpc.StatusCode.CANCELLED} if usable_haproxy() is None else set())
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class End(Enum):
    """How a call ended."""

    ANSWERED = "answered with 200"
    REFUSED = "refused at the door with 503, or no connection was made"
    CLOSED = "the connection was closed before any of an answer came"
    CUT = "the connection was closed within an answer"
    OTHER = "answered otherwise: the gateway's own 503 too, which says that it could not do what it had taken"


@dataclass(frozen=True)
class Call:
    """One call; `detail` says what came."""

    door: str
    begun_s: float
    ended_s: float
    end: End
    detail: str


@dataclass
class Callers:
    """Callers that keep their connections, and every call they made."""

    http: str
    grpc: str
    calls: list[Call] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def by_http(self, model: str) -> None:
        """One caller, until all are told to stop."""
        tensor = {"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": rows(1, seed=7).ravel().tolist()}
        body = orjson.dumps({"inputs": [tensor]})
        with closing(http.client.HTTPConnection(self.http, timeout=LIMIT_S)) as connection:
            self._go_on(HTTP, lambda: _call(connection, f"/v2/models/{model}/infer", body))

    def by_grpc(self, model: str) -> None:
        """One caller, until all are told to stop."""
        tensor = pb.ModelInferRequest.InferInputTensor(name=INPUT, datatype="FP32", shape=[1, 784])
        request = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[rows(1, seed=7).tobytes()])
        with grpc.insecure_channel(self.grpc) as channel:
            method = channel.unary_unary(METHOD)
            self._go_on(GRPC, lambda: _call_grpc(method, request.SerializeToString()))

    def _go_on(self, door: str, call: Callable[[], tuple[End, str]]) -> None:
        while not self.stop.wait(PAUSE_S):
            begun_s = time.monotonic()
            end, detail = call()
            self.calls.append(Call(door, begun_s, time.monotonic(), end, detail))

    def at(self, door: str) -> list[Call]:
        """The calls so far."""
        return [call for call in list(self.calls) if call.door == door]

    def lost(self) -> list[Call]:
        """Those that were cut, or answered with what is neither an answer nor a refusal."""
        lost = [call for call in self.calls if call.end in (End.CUT, End.OTHER)]
        for door in CALLERS:
            first_refusal_s = min(call.ended_s for call in self.at(door) if call.end is End.REFUSED)
            lost += [call for call in self.at(door) if call.end is End.CLOSED and call.begun_s < first_refusal_s]
        return lost


def _call_grpc(method: grpc.UnaryUnaryMultiCallable[bytes, bytes], request: bytes) -> tuple[End, str]:
    try:
        method(request, timeout=LIMIT_S)
    except grpc.RpcError as error:
        code, told = error.code(), str(error.details())
        if code not in NOT_TAKEN:
            return End.OTHER, f"{code} {told}"
        return End.REFUSED if any(words in told for words in AT_THE_DOOR) else End.CLOSED, f"{code} {told}"
    return End.ANSWERED, ""


def _call(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[End, str]:
    """Leaves the connection closed where it failed; the next call makes another."""
    try:
        if connection.sock is None:
            connection.connect()
    except OSError as error:
        return End.REFUSED, repr(error)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
    except OSError as error:  # RemoteDisconnected too
        connection.close()
        return End.CLOSED, repr(error)
    except http.client.HTTPException as error:
        connection.close()
        return End.CUT, repr(error)
    try:
        told = answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return End.CUT if answer.status == 200 else End.REFUSED, f"{answer.status} {error!r}"
    if answer.status == 200:
        return End.ANSWERED, ""
    return End.REFUSED if answer.status == 503 and NOBODY in told else End.OTHER, f"{answer.status} {told[:200]!r}"


@contextmanager
def calling(callers: Callers, models: Iterable[str]) -> Iterator[None]:
    """All of them, at it all the time."""
    works = [callers.by_http] * CALLERS[HTTP] + [callers.by_grpc] * CALLERS[GRPC]
    threads = [threading.Thread(target=work, args=(model,)) for model in models for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        callers.stop.set()
        for thread in threads:
            thread.join()
