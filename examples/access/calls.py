"""How the teams call: httpx, and tritonclient as everybody has it, over TLS; with a key, a token, a certificate, or nothing."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException


@dataclass(frozen=True, slots=True)
class Place:
    """The door's two addresses, `HOST:PORT` each, and whom its callers trust."""

    http: str
    grpc: str
    ca: Path

    def context(self, certificate: Path | None = None) -> ssl.SSLContext:
        """For a caller, with the certificate in NAME.pem and its key in NAME.key where he has one."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate is not None:
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return context


@dataclass(frozen=True, slots=True)
class Rows:
    """What is asked of a model: `values` [n, columns] as its `name`d input, float32, and the `own` labels [n] of who made it."""

    model: str
    name: str
    values: np.ndarray
    own: list[int]

    @classmethod
    def of(cls, model: str, name: str, file: Path) -> Rows:
        """The test rows that training left in `file`."""
        with np.load(file) as arrays:
            return cls(model, name, arrays[name], arrays["own"].tolist())


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a call: the status (200, 401, OK, NOT_FOUND, ...), the words of a refusal, the labels where it went well."""

    status: str
    words: str = ""
    labels: list[int] | None = None
    headers: Mapping[str, str] | None = None


Call = Callable[[Place, Rows, str | None], Told]


def by_httpx(place: Place, rows: Rows, token: str | None = None, certificate: Path | None = None) -> Told:
    """As JSON, like curl."""
    tensor = {"name": rows.name, "datatype": "FP32", "shape": list(rows.values.shape), "data": rows.values.ravel().tolist()}
    with httpx.Client(verify=place.context(certificate), trust_env=False, timeout=60) as client:
        answer = client.post(
            f"https://{place.http}/v2/models/{rows.model}/infer", json={"inputs": [tensor]}, headers=bearer(token)
        )
    if answer.status_code != httpx.codes.OK:
        return Told(str(answer.status_code), answer.json()["error"], headers=answer.headers)
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    return Told(str(answer.status_code), labels=outputs["label"])


def by_http(place: Place, rows: Rows, token: str | None = None) -> Told:
    """By tritonclient's HTTP client."""
    context = place.context()
    with triton_http.InferenceServerClient(place.http, ssl=True, ssl_context_factory=lambda: context) as client:
        return _told(client, triton_http, rows, token, "200")


def by_grpc(place: Place, rows: Rows, token: str | None = None) -> Told:
    """By tritonclient's gRPC client."""
    with triton_grpc.InferenceServerClient(place.grpc, ssl=True, root_certificates=str(place.ca)) as client:
        return _told(client, triton_grpc, rows, token, "OK")


def bearer(token: str | None) -> dict[str, str]:
    """The header, or gRPC's metadata, that a key or token goes into."""
    return {} if token is None else {"authorization": f"Bearer {token}"}


def _told(client: Any, module: Any, rows: Rows, token: str | None, good: str) -> Told:
    tensor = module.InferInput(rows.name, list(rows.values.shape), "FP32")
    tensor.set_data_from_numpy(rows.values)
    try:
        answer = client.infer(rows.model, [tensor], headers=bearer(token))
    except InferenceServerException as error:
        return Told(str(error.status()).removeprefix("StatusCode."), str(error.message()))
    return Told(good, labels=answer.as_numpy("label").ravel().tolist())
