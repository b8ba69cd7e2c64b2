"""KServe's own clients over TLS, in a venv of their own: `python kserve_tls_calls.py URL GRPC_ADDRESS MODEL CA CERTIFICATE KEY`.

Prints one JSON object: what model `pair` has answered, by client. Imports nothing of this project.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

OUTPUT = "double"


def asked(model: str) -> InferRequest:
    """Two rows."""
    tensor = InferInput("x", [2, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2], [3, 4]], np.float32), binary_data=False)
    return InferRequest(model, [tensor])


async def main(url: str, address: str, model: str, ca: str, certificate: str, key: str) -> None:
    # Its own `cert=` is not used (0.21): a context that has it is.
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    async with InferenceRESTClient(RESTConfig(protocol="v2", verify=context)) as rest:
        by_rest = await rest.infer(url, asked(model), model)
    files = {"root_certificates": ca, "private_key": key, "certificate_chain": certificate}
    async with InferenceGRPCClient(address, use_ssl=True, **files) as grpc:
        by_grpc = await grpc.infer(asked(model))
    told = {"rest": by_rest, "grpc": by_grpc}
    sys.stdout.write(json.dumps({name: answer.get_output_by_name(OUTPUT).as_numpy().tolist() for name, answer in told.items()}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
