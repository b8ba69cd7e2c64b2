"""Which requests are answered on the short way: HTTP's `infer`, gRPC's `ModelInfer`, and the door's question for health."""

from __future__ import annotations

from cluster.access.callers import STRANGER, Caller
from cluster.errors import BadInput, HeadraceError, NotFound
from deployments.gateway.access.credential import FORWARDED_FOR, Credential
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission, Lease
from deployments.gateway.grpc.exchange import GrpcExchange
from deployments.gateway.grpc.infer import SERVICE, GrpcInfer
from deployments.gateway.http.asgi import HEAD_MOST_BYTES, Reply, error_reply, head_too_large, json_reply, wrong_method_reply
from deployments.gateway.http.infer import HttpInfer, read_head
from deployments.gateway.http.server.answers import FixedExchange, HttpAnswers, HttpExchange
from deployments.gateway.http.server.body import Pieces
from deployments.gateway.http.server.exchange import Exchange, WireAnswer
from deployments.gateway.http.server.head import RequestHead
from deployments.observe.traces.traceparent import CallerTrace

MODEL_INFER = f"/{SERVICE}/ModelInfer"
HEALTH = "/-/healthz"  # asked by the door
_READY, _ENDING = json_reply({"live": True}), json_reply({"live": False}, 503)


class InferExchanges:
    """Implements Exchanges."""

    def __init__(
        self, infer: HttpInfer, grpc_infer: GrpcInfer, guard: Guard, admission: Admission, max_message_bytes: int
    ) -> None:
        self._infer = infer
        self._guard = guard
        self._grpc_infer = grpc_infer
        self._admission = admission
        self._max_message_bytes = max_message_bytes
        self._answers = HttpAnswers()

    def of(self, head: RequestHead) -> Exchange:
        """See Exchanges."""
        if head.path == MODEL_INFER and head.method == "POST":
            return GrpcExchange(self._grpc_infer, self._guard, head, self._max_message_bytes)
        if head.path == HEALTH:
            return _Health(self._admission, self._answers)
        match [segment for segment in head.path.split("/") if segment]:
            case ["v2", "models", model, "infer"]:
                version = None
            case ["v2", "models", model, "versions", version, "infer"]:
                pass
            case _:
                missing = NotFound(
                    f"nothing at {head.path[:200]}", where="path", remedy="only infer is answered on this socket: ask the door"
                )
                return self._told(head, error_reply(missing))
        if head.size_bytes > HEAD_MOST_BYTES:
            return self._told(head, error_reply(head_too_large(head.size_bytes)))
        if head.method != "POST":
            return self._told(head, wrong_method_reply(head.method))
        try:
            headers = dict(head.headers)
            address = headers.get(FORWARDED_FOR, b"")
            return HttpExchange(self._infer, read_head(headers, model, version), self._answers, self._guard, address)
        except BadInput as error:
            return self._told(head, error_reply(error))

    def broken(self, error: HeadraceError) -> WireAnswer:
        """See Exchanges."""
        return self._answers.of(error_reply(error))

    def _told(self, head: RequestHead, reply: Reply) -> FixedExchange:
        return FixedExchange(reply, self._answers, bodiless=head.method == "HEAD")


class _Health:
    """Whether a door may send requests here: until the gateway begins to end."""

    __slots__ = ("_admission", "_answers")

    def __init__(self, admission: Admission, answers: HttpAnswers) -> None:
        self._admission = admission
        self._answers = answers

    def admit(self, credential: Credential) -> Caller:  # noqa: ARG002
        """See Exchange. It is told to anybody: only the door reaches this path."""
        return STRANGER

    def refusal(self, body_bytes: int) -> WireAnswer | None:  # noqa: ARG002
        """See Exchange. So it is told at once, also where too many requests are under way."""
        return self._answers.of(_ENDING if self._admission.ending.is_set() else _READY)

    def failed(self, error: HeadraceError) -> WireAnswer:
        """See Exchange."""
        return self._answers.of(error_reply(error))

    async def answer(self, body: Pieces, lease: Lease, caller: Caller, trace: CallerTrace) -> WireAnswer:  # noqa: ARG002
        """See Exchange."""
        return self._answers.of(_READY)
