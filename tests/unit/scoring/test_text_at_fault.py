"""Bytes that are no text, by each way in, with a key that a candidate has: told to their sender, held against nobody."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from cluster.access.callers import VISITOR
from cluster.errors import BadInput
from cluster.rollout.evidence import Counts
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.grpc.errors import code_of
from deployments.gateway.grpc.infer import GrpcInfer
from deployments.gateway.http.app import GatewayApp
from deployments.gateway.large import LargeWork
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.repository import Repository
from deployments.scoring.scorer import RoutedScorer
from deployments.transport.transports import EmbeddedTransport
from tests.support.gateway_fakes import PATIENT
from tests.support.models import TEXT_SIGNATURE, text_artifact
from tests.support.routing import TableControl, route, target

pytestmark = pytest.mark.anyio

BAD, GOOD = [b"yes", b"\xff\xfe"], [b"yes", b"no"]
TOLD = "input 'text', element [1] of the row, is not UTF-8"


def raw(row: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in row)


async def test_a_client_cannot_roll_a_version_back_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    versions = [
        replace(target(number, text_artifact(tmp_path, unknown=number), "words"), signature=TEXT_SIGNATURE) for number in (1, 2)
    ]
    control = TableControl(route(*versions, model="words", candidate=2, weight=10_000, stage="r1.1"))
    embedded = EmbeddedTransport()
    scorer = RoutedScorer(control, embedded=embedded)
    await scorer.start()
    await embedded.settled([version.app for version in versions])
    dataplane, repository = DataPlane(scorer, PATIENT), Repository(scorer, control)
    guard, admission, large = Guard(scorer, visitors=True), Admission(100, 1 << 30), LargeWork()
    app = GatewayApp(dataplane, repository, control, guard, "0", 1 << 20, admission, large)
    grpc = GrpcInfer(dataplane, large)
    head = b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1,2],"parameters":{"binary_data_size":%d}}]}'

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        for _ in range(5):
            told = head % len(raw(BAD))
            lengths = {"inference-header-content-length": str(len(told))}
            answer = await client.post("/v2/models/words/infer", content=told + raw(BAD), headers=lengths)
            assert answer.status_code == 400
            assert TOLD in answer.json()["error"]
            asked = pb.ModelInferRequest(model_name="words", raw_input_contents=[raw(BAD)])
            asked.inputs.add(name="text", datatype="BYTES", shape=[1, 2])
            typed = pb.ModelInferRequest(model_name="words")
            typed.inputs.add(name="text", datatype="BYTES", shape=[1, 2]).contents.bytes_contents.extend(BAD)
            for request in (asked, typed):
                with pytest.raises(BadInput) as refused:
                    await grpc.infer(request.SerializeToString(), None, None, VISITOR)
                assert TOLD in str(refused.value)
                assert code_of(refused.value).name == "INVALID_ARGUMENT"
        good = head % len(raw(GOOD)) + raw(GOOD)
        lengths = {"inference-header-content-length": str(len(head % len(raw(GOOD))))}
        assert (await client.post("/v2/models/words/infer", content=good, headers=lengths)).json()["model_version"] == "2"
    await scorer.close()
    assert control.counts(2) == Counts(rows=1, calls=1)
    assert control.counts(1) == Counts()
