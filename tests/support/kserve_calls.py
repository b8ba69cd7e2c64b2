"""KServe's own clients, in a venv of their own: `python kserve_calls.py HTTP_URL GRPC_ADDRESS MODEL KEY ROWS.npy [TOKEN...]`

KEY is a routing key; with each TOKEN both clients score once more. Prints one JSON object: by call, what it returned, or `!` and
the words of what it raised. Imports nothing of this project.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Generator
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.infer_type import InferResponse, RequestedOutput

INPUT, OUTPUT = "image", "probabilities"
EXPLAIN = {"method": "shapley", "evaluations": 2000, "class": 3}


def asked(model: str, x: np.ndarray, *, binary: bool, **more: Any) -> InferRequest:
    """A request for all rows."""
    tensor = InferInput(INPUT, list(x.shape), "FP32" if x.dtype == np.float32 else "FP64")
    tensor.set_data_from_numpy(x, binary_data=binary)
    return InferRequest(model, [tensor], request_id="7", **more)


async def told(call: Awaitable[Any]) -> Any:
    """What a call came to."""
    try:
        answer = await call
    except (httpx.HTTPStatusError, grpc.RpcError) as error:
        return f"! {error}"
    if not isinstance(answer, InferResponse):
        return answer
    output = answer.get_output_by_name(OUTPUT)
    return {"model": answer.model_name, "version": answer.model_version, "id": answer.id, "rows": output.as_numpy().tolist()}


async def rest_v1(url: str, model: str, x: np.ndarray) -> dict[str, Any]:
    why = {"instances": x.tolist(), "parameters": EXPLAIN}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        return {
            "live": await told(client.is_server_live(url)),
            "model ready": await told(client.is_model_ready(url, model)),
            "other ready": await told(client.is_model_ready(url, "none")),
            "infer": await told(client.infer(url, {"instances": x.tolist()}, model)),
            "wrong": await told(client.infer(url, {"instances": [[1.0, 2.0]]}, model)),
            "other": await told(client.infer(url, {"instances": x.tolist()}, "none")),
            "explain": await told(client.explain(url, model, why)),
            "explain version 2": await told(client.explain(url, f"{model}/versions/2", why)),
            "explain wrong": await told(client.explain(url, model, why | {"parameters": {"class": 11}})),
            "explain other": await told(client.explain(url, "none", why)),
        }


async def rest_v2(url: str, model: str, key: str, x: np.ndarray) -> dict[str, Any]:
    steered = {"x-routing-key": key}
    binary_wanted = [RequestedOutput(OUTPUT, {"binary_data": True})]
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:

        async def infer(request: InferRequest, path: str = model, headers: dict[str, str] | None = None) -> Any:
            return await told(client.infer(url, request, path, headers=headers))

        return {
            "live": await told(client.is_server_live(url)),
            "ready": await told(client.is_server_ready(url)),
            "model ready": await told(client.is_model_ready(url, model)),
            "other ready": await told(client.is_model_ready(url, "none")),
            "json": await infer(asked(model, x, binary=False)),
            "binary": await infer(asked(model, x, binary=True)),
            "binary both ways": await infer(asked(model, x, binary=True, parameters={"binary_data_output": True})),
            "binary output": await infer(asked(model, x, binary=False, request_outputs=binary_wanted)),
            "key in a header": await infer(asked(model, x, binary=True), headers=steered),
            "key as a parameter": await infer(asked(model, x, binary=True, parameters={"routing_key": key})),
            "version 1": await infer(asked(model, x, binary=True), f"{model}/versions/1"),
            "version 2": await infer(asked(model, x, binary=True), f"{model}/versions/2"),
            "version 9": await infer(asked(model, x, binary=True), f"{model}/versions/9"),
            "wrong": await infer(asked(model, x.astype(np.float64), binary=True)),
            "other": await infer(asked("none", x, binary=True), "none"),
        }


async def by_grpc(address: str, model: str, key: str, x: np.ndarray) -> dict[str, Any]:
    steered = (("x-routing-key", key),)
    async with InferenceGRPCClient(address) as client:
        stub = client._client_stub  # the client has no method for what follows it
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name=model))
        await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model))
        return {
            "live": await told(client.is_server_live()),
            "ready": await told(client.is_server_ready()),
            "model ready": await told(client.is_model_ready(model)),
            "other ready": await told(client.is_model_ready("none")),
            "server": (await stub.ServerMetadata(pb.ServerMetadataRequest())).name,
            "inputs": [[tensor.name, tensor.datatype, list(tensor.shape)] for tensor in metadata.inputs],
            "raw": await told(client.infer(asked(model, x, binary=True))),
            "typed": await told(client.infer(asked(model, x, binary=False))),
            "key in the metadata": await told(client.infer(asked(model, x, binary=True), headers=steered)),
            "key as a parameter": await told(client.infer(asked(model, x, binary=True, parameters={"routing_key": key}))),
            "version 1": await told(client.infer(asked(model, x, binary=True, model_version="1"))),
            "version 2": await told(client.infer(asked(model, x, binary=True, model_version="2"))),
            "version 9": await told(client.infer(asked(model, x, binary=True, model_version="9"))),
            "wrong": await told(client.infer(asked(model, x.astype(np.float64), binary=True))),
            "other": await told(client.infer(asked("none", x, binary=True))),
        }


class Bearer(httpx.Auth):
    """The key that a REST client is given for all its calls."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx."""
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


async def with_token(url: str, address: str, model: str, token: str, x: np.ndarray) -> dict[str, Any]:
    request, metadata = asked(model, x, binary=True), (("authorization", f"Bearer {token}"),)
    found = {}
    for protocol, body in (("v1", {"instances": x.tolist()}), ("v2", request)):
        async with InferenceRESTClient(RESTConfig(protocol=protocol, auth=Bearer(token))) as client:
            found[protocol] = await told(client.infer(url, body, model))
    async with InferenceGRPCClient(address) as client:
        found["grpc"] = await told(client.infer(request, headers=metadata))
    return found


async def main() -> None:
    logging.disable()  # the clients log each error that they raise
    url, address, model, key, path, *tokens = sys.argv[1:]
    x = np.load(path)
    calls = {
        "v1": await rest_v1(url, model, x),
        "v2": await rest_v2(url, model, key, x),
        "grpc": await by_grpc(address, model, key, x),
        "tokens": [await with_token(url, address, model, token, x) for token in tokens],
    }
    sys.stdout.write(json.dumps(calls))


if __name__ == "__main__":
    asyncio.run(main())
