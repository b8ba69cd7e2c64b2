"""Callers who ask are told which of their rows are outliers: over HTTP and gRPC, in a stream's headers, in a batch's column."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.access.callers import CLUSTER
from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.loop import Loop
from consumers.stream.outgoing.answers import OUTLIER_HEADER
from consumers.stream.spec import StreamInput, StreamOutput, StreamSpec, Topic
from deployments.drift.profile_book import ProfileBook
from deployments.engines.datatypes import Array
from deployments.gateway.dataplane import DataPlane, InferCall
from deployments.gateway.protocol.asked import OUTLIER
from deployments.gateway.protocol.grpc_codec import parse_infer, request_from, response_to
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.protocol.request import parse_request
from deployments.gateway.protocol.response import encode_response
from deployments.profiles.form import Profile
from deployments.profiles.making import make_profile
from deployments.scoring.port import Scored
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.transport.transports import EmbeddedTransport
from tests.support.batch_parts import engine_scorer, pinned, spec_of, write_dataset
from tests.support.gateway_fakes import PAIR, PATIENT, FakeScorer, double, table
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.routing import TableControl, route, target
from tests.support.stream_parts import SumScoring
from tests.support.waiting import until

TYPICAL, STRANGE = [0.1, 0.1], [400.0, -400.0]


def pair_profile(*_: str) -> Profile:
    x = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    return make_profile(PAIR, {"x": x}, double({"x": x}))


def plane(book: ProfileBook | None = None, signature: Signature = PAIR) -> DataPlane:
    scorer = FakeScorer(table(signature))
    scorer.book = book or ProfileBook(pair_profile)
    return DataPlane(scorer, PATIENT)


def asked(outliers: object) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [3, 2], "data": [*TYPICAL, *STRANGE, *TYPICAL]}
    return orjson.dumps({"inputs": [tensor], "parameters": {"outliers": outliers}})


@pytest.mark.anyio
async def test_over_http() -> None:
    answer = await plane().infer(InferCall("pair"), parse_request(asked(outliers=True)), CLUSTER)
    body, _ = encode_response(answer)
    told = {output["name"]: output for output in orjson.loads(body)["outputs"]}
    assert list(told) == ["double", "sum", OUTLIER]
    assert (told[OUTLIER]["datatype"], told[OUTLIER]["shape"]) == ("FP64", [3])
    first, strange, last = told[OUTLIER]["data"]
    assert first == last > 0.1
    assert strange == pytest.approx(1 / 501)
    silent = await plane().infer(InferCall("pair"), parse_request(asked(outliers=False)), CLUSTER)
    assert [output.name for output in silent.outputs] == ["double", "sum"]


@pytest.mark.anyio
async def test_over_grpc() -> None:
    message = pb.ModelInferRequest(model_name="pair")
    message.parameters["outliers"].bool_param = True
    message.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    message.raw_input_contents.append(np.array([TYPICAL, STRANGE], np.float32).tobytes())
    answer = await plane().infer(InferCall("pair"), request_from(*parse_infer(message.SerializeToString())), CLUSTER)
    read = pb.ModelInferResponse.FromString(response_to(answer))
    assert read.outputs[2].name == OUTLIER
    typical, strange = np.frombuffer(read.raw_output_contents[2], np.float64)
    assert (typical > 0.1, strange < 0.01) == (True, True)


@pytest.mark.anyio
async def test_what_can_not_be_told_is_said() -> None:
    with pytest.raises(BadInput, match="nothing says what an outlier of version 3 is") as caught:
        await plane(ProfileBook(lambda *_: None)).infer(InferCall("pair"), parse_request(asked(outliers=True)), CLUSTER)
    assert "build it again" in caught.value.remedy
    with pytest.raises(BadInput, match="outliers must be true or false; got a text"):
        await plane().infer(InferCall("pair"), parse_request(asked(outliers="yes")), CLUSTER)
    own = TensorSpec(name=OUTLIER, datatype=Datatype.FP32, shape=(-1, 2))
    with pytest.raises(BadInput, match="the model has an output 'outlier' of its own"):
        await plane(signature=replace_outputs(own)).infer(InferCall("pair"), parse_request(asked(outliers=True)), CLUSTER)


def replace_outputs(*outputs: TensorSpec) -> Signature:
    return Signature(inputs=PAIR.inputs, outputs=outputs)


class TellingScoring(SumScoring):
    """As a scorer that tells outliers: 1 over one more than the row's first number."""

    def _score(self, rows: Array, keys: Sequence[bytes | None]) -> Scored:
        return replace(super()._score(rows, keys), outliers=1 / (1 + np.asarray(rows, np.float64)[:, 0]))


def test_in_the_headers_of_a_stream() -> None:
    spec = StreamSpec(
        model="m",
        input=StreamInput(topic="in", partitions=1),
        output=StreamOutput(topic="out", partitions=1, outliers=True),
        dead_letters=Topic(topic="dead", partitions=1),
    )
    broker = MemoryBroker()
    for topic in (spec.input, spec.output, spec.dead_letters):
        broker.create(topic.topic, topic.partitions)
    for i in range(5):
        broker.append("in", 0, Stored(b"k", b'{"x": [%d, 0, 0]}' % i, (("own", b"1"),), 1000))
    loop = Loop("s", spec, TellingScoring(), lambda: MemoryLog(broker, "in", "g"))
    thread = threading.Thread(target=loop.run)
    thread.start()
    until(lambda: len(broker.topics["out"][0]) == 5, 20)
    loop.stop()
    thread.join(30)
    told = [dict(each.headers)[OUTLIER_HEADER] for each in broker.topics["out"][0]]
    assert told == [b"1.000000", b"0.500000", b"0.333333", b"0.250000", b"0.200000"]


def test_by_the_scorer_of_a_stream_whatever_version_answered(tmp_path: Path) -> None:
    one, other = mlp_artifact(tmp_path, profiled=600), mlp_artifact(tmp_path, seed=1)
    control = TableControl(route(target(1, one), target(2, other), candidate=2, weight=5000, stage="r", salt=1))
    embedded = EmbeddedTransport()
    image = rows(100, seed=5)
    image[::2] = 1 - image[::2]
    keys = [f"{i}".encode() for i in range(100)]
    with ScorerThread(lambda: RoutedScorer(control, embedded=embedded, trial=EmbeddedTransport())) as thread:
        scorer = thread._running()
        apps = [each.app for each in scorer.table.routes["digits"].targets.values()]
        asyncio.run_coroutine_threadsafe(embedded.settled(apps), thread._loop).result()
        pinned_answer = thread.submit("digits", {INPUT: image.copy()}, keys, version=1, donated=True, outliers=True).result()
        mixed = thread.submit("digits", {INPUT: image.copy()}, keys, donated=True, outliers=True).result()
        without = thread.submit("digits", {INPUT: image.copy()}, keys, donated=True).result()
    assert pinned_answer.outliers is not None
    assert (pinned_answer.outliers[::2] <= 0.01).all()
    assert (pinned_answer.outliers[1::2] <= 0.01).mean() < 0.2
    assert set(mixed.versions.tolist()) == {1, 2}
    assert mixed.outliers is None, "version 2 has no profile: its answers are given all the same"
    assert without.outliers is None


def test_in_a_column_of_a_batch(tmp_path: Path) -> None:
    write_dataset(tmp_path / "in", files=1)
    file = next((tmp_path / "in").rglob("*.parquet"))
    table_ = pq.read_table(file)
    image = table_["image"].to_pylist()
    image[3], image[7] = None, [1.0 - value for value in image[7]]
    place = table_.schema.get_field_index("image")
    pq.write_table(table_.set_column(place, "image", pa.array(image, pa.list_(pa.float32()))), file)
    spec = spec_of(tmp_path / "in", tmp_path / "out", output={"columns": {"p": "outlier()", "v": "version()"}})
    bare, full = (pinned(mlp_artifact(tmp_path / f"a{many}", profiled=many)) for many in (0, 600))
    with pytest.raises(BadInput, match="nothing says what an outlier of version 1 is"):
        begin("b", spec, bare, inline_workforce(engine_scorer), as_of=None, fresh=False, watch=lambda _: None)
    assert not (tmp_path / "out").exists()
    begin("b", spec, full, inline_workforce(engine_scorer), as_of=None, fresh=False, watch=lambda _: None)
    found = pq.read_table(tmp_path / "out").sort_by("id")
    assert found["id"].to_pylist() == [i for i in range(300) if i != 3]
    told = dict(zip(found["id"].to_pylist(), found["p"].to_pylist(), strict=True))
    assert told[7] == pytest.approx(1 / 301)
    assert np.mean([p <= 0.01 for row, p in told.items() if row != 7]) < 0.1
