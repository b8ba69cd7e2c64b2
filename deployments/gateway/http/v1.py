"""V1's two calls that have a body, `:predict` and `:explain`, from the request to the reply."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.access.callers import Caller
from cluster.versions import EXPLAINS
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.asgi import Reply, Request
from deployments.gateway.http.infer import read_call
from deployments.gateway.large import LARGE_BYTES, LargeWork
from deployments.gateway.protocol.explanations import encode_v1_explanations, parse_v1_explain
from deployments.gateway.protocol.v1 import encode_v1, parse_v1
from deployments.gateway.request_meter import WireProtocol


@dataclass(frozen=True, slots=True)
class HttpV1:
    """Counts each call, also one that fails. Bodies that are large are read and written off the event loop."""

    dataplane: DataPlane
    large: LargeWork

    async def predict(self, request: Request, model: str, caller: Caller) -> Reply:
        """Scores the rows. Raises what DataPlane.infer raises, and BadInput for the body."""
        began_s = time.monotonic()
        with self._failing(model, caller):
            body, signature = await request.body(), await self.dataplane.signature(model, caller=caller)
            large = len(body) > LARGE_BYTES
            wanted = await self.large.run(parse_v1, body, signature) if large else parse_v1(body, signature)
            answer = await self.dataplane.infer(read_call(request.headers, model, None), wanted, caller)
            if sum(output.array.nbytes for output in answer.outputs) > LARGE_BYTES:
                text = await self.large.run(encode_v1, answer, columns=wanted.columns)
            else:
                text = encode_v1(answer, columns=wanted.columns)
        self.dataplane.requests.answered(model, answer.version, WireProtocol.HTTP, began_s, caller, answer.rows)
        return Reply(200, text)

    async def explain(self, request: Request, model: str, version: str | None, caller: Caller) -> Reply:
        """Explains each row's answer. Raises what DataPlane.explain raises, and BadInput for the body."""
        began_s, explains = time.monotonic(), model + EXPLAINS
        with self._failing(explains, caller):
            body, signature = await request.body(), await self.dataplane.signature(explains, version, caller=caller)
            large = len(body) > LARGE_BYTES
            wanted = await self.large.run(parse_v1_explain, body, signature) if large else parse_v1_explain(body, signature)
            found, signature = await self.dataplane.explain(read_call(request.headers, model, version), wanted, caller)
            text = await self.large.run(encode_v1_explanations, model, found, signature)
        rows = len(found.explanations)
        self.dataplane.requests.answered(explains, str(found.version), WireProtocol.HTTP, began_s, caller, rows)
        return Reply(200, text)

    @contextmanager
    def _failing(self, model: str, caller: Caller) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.dataplane.requests.failed(model, WireProtocol.HTTP, error, caller)
            raise
