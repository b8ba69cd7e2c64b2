"""No value of a row stands in what is written of an error: every way in, with values that are known again wherever they are."""

from __future__ import annotations

import io
import json
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from cluster.error_wire import from_wire, to_wire
from cluster.errors import BadInput, EngineFailure
from cluster.foreign import kind_and_words, trace_of, words_of
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.score.pool import _of_ray
from consumers.stream.codecs.formats import make_decoder
from consumers.stream.codecs.registry import Schemas
from consumers.stream.labels.records import label_in
from consumers.stream.log.port import Header
from consumers.stream.security import Registry
from consumers.stream.spec import Format, InputEnvelope, LabelTopic, StreamInput
from deployments.builder.sources.mlflow_models.example import example_rows
from deployments.builder.sources.rows import check_classes, read_rows
from deployments.builder.spec import InputSpec
from deployments.engines.failures import told_by
from deployments.engines.onnx import OnnxEngine
from deployments.explain.asking import as_tensor, read_options
from deployments.gateway.http.asgi import json_object
from deployments.gateway.protocol.compression import inflate
from deployments.gateway.protocol.explanations import parse_v1_explain
from deployments.gateway.protocol.grpc_codec import parse_infer, request_from
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.protocol.request import parse_raw_request, parse_request
from deployments.gateway.protocol.v1 import parse_v1
from deployments.observe.logs.form import LineFormatter
from deployments.observe.logs.settings import LogForm
from headrace.label_lines import tell
from tests.support.brain import Brain
from tests.support.marked import BYTES, REAL, TEXT, WHOLE, marks_in, raised_by, written_of
from tests.support.schema_registry import SchemaRegistry, avro, framed, schema_registry

X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))
N = TensorSpec(name="n", datatype=Datatype.INT8, shape=(-1,))
S = TensorSpec(name="s", datatype=Datatype.BYTES, shape=(-1,))
B = TensorSpec(name="b", datatype=Datatype.BOOL, shape=(-1,))
SIGNATURE = Signature(inputs=(X, N, S, B), outputs=(X,))
GOOD: dict[str, Any] = {"x": [1.0, 2.0], "n": 3, "s": "good", "b": True}
HUGE = int("73159" + 30 * "0")
# What may stand in place of a good value, of any input.
WRONG: list[Any] = [TEXT, [TEXT], [TEXT, TEXT], WHOLE, [WHOLE, TEXT], [REAL, None, REAL], REAL, HUGE, [HUGE, HUGE], None]
# Names are places, and told: a mapping's are not marked.
WRONG += [{"other": WHOLE}, {"more": [REAL, TEXT]}, [[REAL], [REAL, REAL]], [[TEXT]], True, [], [REAL] * 300, "\ud800Marked"]
SCHEMA = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "x", "type": {"type": "array", "items": ["null", "double", "string"]}},
        {"name": "n", "type": ["long", "string", {"type": "enum", "name": "E", "symbols": ["A", "B"]}]},
        {"name": "s", "type": ["string", "bytes"]},
        {"name": "b", "type": ["boolean", "string"]},
    ],
}
EVENT: list[Header] = [("content-type", b"application/cloudevents+json")]


def documents() -> Iterator[dict[str, Any]]:
    """Each with one wrong value."""
    for name in GOOD:
        for wrong in WRONG:
            yield {**GOOD, name: wrong}
        yield {key: value for key, value in GOOD.items() if key != name} | {"other": TEXT}


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


BROKEN = [
    TEXT.encode(), BYTES, b'{"x": ' + TEXT.encode(), b'{"s": "' + BYTES + b'"}', as_json([TEXT]), as_json(TEXT), as_json(WHOLE),
    b'{"x": [7315.926, NaN]}', b'{"x": 73159e99999}', b"\x00" * 9 + TEXT.encode(), b"",
]  # fmt: skip


@pytest.fixture(scope="module")
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


def refusals(given: StreamInput, values: Sequence[bytes], headers: Sequence[Header] = (), schemas: Any = None) -> list[BadInput]:
    decoded = make_decoder(SIGNATURE, given, schemas).decode(list(values), [headers] * len(values))
    return list(decoded.errors.values())


def check(errors: Sequence[BaseException], at_least: int) -> None:
    assert len(errors) >= at_least
    for error in errors:
        written = written_of(error)
        assert not marks_in(written), next(line for line in written.splitlines() if marks_in(line))


def test_records_of_json() -> None:
    values = [*BROKEN, *map(as_json, documents())]
    check(refusals(StreamInput(topic="in"), values), 50)
    events = [as_json({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": one}) for one in documents()]
    events += [*BROKEN, as_json({"specversion": 1, "id": TEXT, "source": WHOLE})]
    check(refusals(StreamInput(topic="in", envelope=InputEnvelope.CLOUDEVENTS), events, EVENT), 50)
    check(refusals(StreamInput(topic="in", envelope=InputEnvelope.CLOUDEVENTS), BROKEN, [("ce_id", TEXT.encode())]), 10)


def test_records_of_raw_tensors_and_of_events_around_them() -> None:
    given = StreamInput(topic="in", format=Format.RAW)
    signature = Signature(inputs=(X, N), outputs=(X,))
    errors = list(make_decoder(signature, given).decode(BROKEN).errors.values())
    events = [as_json({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data_base64": one}) for one in WRONG]
    wrapped = StreamInput(topic="in", format=Format.RAW, envelope=InputEnvelope.CLOUDEVENTS)
    errors += make_decoder(signature, wrapped).decode(events, [EVENT] * len(events)).errors.values()
    check(errors, 20)


def test_records_of_arrow() -> None:
    values = [*BROKEN]
    for document in documents():
        try:
            columns = {name: pa.array([value]) for name, value in document.items()}
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            continue  # no producer can make it either
        values.append(stream_of(pa.record_batch(columns)))
    columns = {"x": pa.array([[1.0, 2.0]]), "n": pa.array([WHOLE]), "s": pa.array(["a"]), "b": pa.array([True])}
    dictionary = pa.DictionaryArray.from_arrays(pa.array([WHOLE], pa.int32()), pa.array([TEXT]), safe=False)
    values.append(stream_of(pa.record_batch({**columns, "s": dictionary})))
    no_text = pa.StringArray.from_buffers(1, pa.py_buffer(struct.pack("<ii", 0, len(BYTES))), pa.py_buffer(BYTES))
    values.append(stream_of(pa.record_batch({**columns, "s": no_text})))
    values.append(stream_of(pa.record_batch({"other": columns["n"], **columns}).slice(0, 0)))
    check(refusals(StreamInput(topic="in", format=Format.ARROW), values), 30)


def stream_of(batch: pa.RecordBatch) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def test_records_that_a_schema_registry_describes(registry: SchemaRegistry) -> None:
    number = registry.register("in-value", SCHEMA)
    schemas = Schemas(Registry(url=registry.url))
    given = StreamInput(topic="in", format=Format.AVRO)
    values = [
        *BROKEN,
        *(framed(number, one) for one in BROKEN),
        framed(number, b"\x06" + BYTES * 9),
        framed(number, b"\xff" * 40),
    ]
    for x, n, s, b in [
        ([TEXT], 3, "a", True), ([1.0, 2.0], TEXT, "a", True), ([1.0, 2.0], WHOLE, "a", True), ([None, REAL], 3, BYTES, TEXT),
        ([REAL] * 3, 3, "a", True), ([1e300, REAL], 3, "a", True), ([1.0, 2.0], 3, "a", TEXT),
    ]:  # fmt: skip
        values.append(framed(number, avro(SCHEMA, {"x": x, "n": n, "s": s, "b": b})))
    values.append(framed(number, avro(SCHEMA, {"x": [1.0, 2.0], "n": 3, "s": "a", "b": True}) + TEXT.encode()))
    check(refusals(given, values, schemas=schemas), 25)
    by_json = registry.register("json-value", "{}", "JSON")
    values = [framed(by_json, as_json(one)) for one in documents()] + [framed(by_json, one) for one in BROKEN] + BROKEN
    check(refusals(StreamInput(topic="in", format=Format.JSON_SCHEMA), values, schemas=schemas), 50)
    schemas.close()


def v2(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]} | changes


def bodies() -> Iterator[bytes]:
    """Wrong requests of v2, as JSON."""
    yield from BROKEN
    for name in ("shape", "datatype", "data", "parameters"):
        for wrong in WRONG:
            yield as_json({"inputs": [v2(**{name: wrong})]})
    for datatype in ("INT8", "BOOL", "BYTES", "UINT64", "FP64", "FP16"):
        for wrong in WRONG:
            yield as_json({"inputs": [v2(datatype=datatype, data=wrong)]})
    for size in (TEXT, REAL, -WHOLE):
        yield as_json({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}]})
    for wrong in WRONG:
        yield as_json({"inputs": wrong})
        yield as_json({"inputs": [v2()], "outputs": wrong})
        yield as_json({"inputs": [v2()], "id": wrong, "parameters": wrong})


def errors_of(read: Callable[..., Any], cases: Sequence[Any]) -> list[BaseException]:
    errors = []
    for case in cases:
        try:
            read(case)
        except BadInput as error:
            errors.append(error)
    return errors


def test_requests_over_http() -> None:
    check(errors_of(parse_request, list(bodies())), 80)
    rows = [as_json({"instances": [{**GOOD, name: wrong}]}) for name in GOOD for wrong in WRONG]
    rows += [as_json({kind: wrong}) for kind in ("instances", "inputs") for wrong in WRONG]
    rows += [as_json({"inputs": {**GOOD, "s": [{"b64": wrong}]}}) for wrong in WRONG]
    check(errors_of(lambda body: parse_v1(body, SIGNATURE), [*BROKEN, *rows]), 80)
    check(errors_of(lambda body: parse_v1_explain(body, SIGNATURE), [*BROKEN, *rows]), 60)
    one = Signature(inputs=(X,), outputs=(X,))
    check(errors_of(lambda body: parse_raw_request(body, one), [TEXT.encode(), BYTES]), 2)
    check(errors_of(lambda body: json_object(body, "request"), BROKEN), 5)
    check(errors_of(lambda body: inflate(body, "gzip", 1000), [TEXT.encode(), BYTES]), 2)


def test_requests_over_grpc() -> None:
    def read(data: bytes) -> None:
        request_from(*parse_infer(data))

    cases = [*BROKEN[:4]]
    for datatype, field, values in [
        ("INT8", "int_contents", [WHOLE]), ("FP32", "fp64_contents", [REAL]), ("FP32", "fp32_contents", [REAL] * 3),
        ("BYTES", "bytes_contents", [BYTES, BYTES]), (TEXT, "fp32_contents", [REAL]),
    ]:  # fmt: skip
        proto = pb.ModelInferRequest(model_name="m")
        tensor = proto.inputs.add(name="x", datatype=datatype, shape=[1])
        getattr(tensor.contents, field).extend(values)
        cases.append(proto.SerializeToString())
    proto = pb.ModelInferRequest(model_name="m", raw_input_contents=[BYTES])
    proto.inputs.add(name="x", datatype="BYTES", shape=[1])
    cases.append(proto.SerializeToString())
    check(errors_of(read, cases), 8)


def test_what_is_asked_of_explanations() -> None:
    tensors = [(spec, wrong) for spec in SIGNATURE.inputs for wrong in WRONG]
    check(errors_of(lambda case: as_tensor(case[1], case[0], "row"), tensors), 20)
    options = [{name: wrong} for name in ("output", "target", "evaluations", "baseline", "groups", "seed") for wrong in WRONG]
    check(errors_of(lambda case: read_options(case, SIGNATURE), options), 20)


def test_late_labels() -> None:
    lines = [as_json({"key": wrong, "label": wrong}) for wrong in WRONG if wrong != "\ud800Marked"] + BROKEN
    told = tell("m", lines, lambda _request: raised_by(int, "x"))  # type: ignore[arg-type, return-value]
    assert told.refused >= 15
    assert not marks_in(" ".join(told.reasons))
    assert all(label_in(Line(line), LabelTopic(topic="truth")) is None for line in BROKEN)


def test_labels_that_the_controller_refuses_and_what_its_audit_has() -> None:
    brain = Brain()
    plan = {
        "steps": [{"weight": 20, "bake_s": 1}, {"weight": 100, "bake_s": 1}],
        "checks": {"labels": {"margin": 0.05, "output": "output"}},
    }
    brain.serve_first(plan)
    brain.build(2)
    brain.tick(4)
    keys = [TEXT, f"{brain.rollout()['id']}/2/7/in/0/1"]
    labels = [{"key": key, "label": label} for key in keys for label in (WHOLE, TEXT, "inf", None, True)]
    told = brain.call("rollout.label", model="digits", labels=labels)
    assert told["refused"] >= 5
    refused = [
        raised_by(lambda wrong=wrong: brain.call("rollout.label", model="digits", labels=wrong)) for wrong in (WRONG, TEXT)
    ]
    check(refused, 2)
    audit = [record.document for record in brain.controller._store.audit_records(0, 100)]
    assert len(audit) >= 4
    assert not marks_in(" ".join([*map(str, told["reasons"]), *audit]))


class Line:
    """A record of a topic of labels."""

    offset, headers = 0, ()

    def __init__(self, value: bytes) -> None:
        self.value = value


def test_files_of_rows(tmp_path: Path) -> None:
    objects, text, broken = tmp_path / "objects.npz", tmp_path / "text.npz", tmp_path / "broken.npz"
    np.savez(objects, x=np.array([TEXT, WHOLE], dtype=object), allow_pickle=True)
    np.savez(text, x=np.array([[TEXT, TEXT]]))
    broken.write_bytes(TEXT.encode() * 9)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + TEXT.encode() * 9 + b"PAR1")
    check([raised_by(read_rows, file, [X]) for file in (objects, text, broken, tmp_path / "broken.parquet")], 4)
    labels = np.array([0, WHOLE])
    check([raised_by(check_classes, labels, {"scores": np.eye(2, 3, dtype=np.float32)}, "data.npz")], 1)
    example = tmp_path / "example.json"
    for wrong in WRONG:
        example.write_bytes(as_json({"inputs": {"n": [wrong]}}))
        told = example_rows(example, [InputSpec(name="n", datatype=Datatype.INT8, shape=(-1,))])
        assert not marks_in(str(told)) or not isinstance(told, str)


@pytest.mark.parametrize("kind", ["gather", "cast"])
def test_what_onnxruntime_quotes(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    engine, tensors = onnx_engine(tmp_path, kind)
    if kind == "gather":  # what it is that would be told
        assert marks_in(str(raised_by(engine._session.run, None, tensors)))
    error = raised_by(engine.score, tensors)
    check([error], 1)
    assert isinstance(error, EngineFailure)
    assert "Gather" in str(error) or "Cast" in str(error)
    assert not marks_in("".join(capfd.readouterr()))


def test_what_other_libraries_quote() -> None:
    quoting = [
        (float, TEXT), (int, TEXT), (np.array([TEXT]).astype, np.float32), (pa.array([TEXT]).cast, pa.float64()),
        (pa.array([REAL]).cast, pa.int32()), (pa.array([WHOLE]).cast, pa.int8()), (BYTES.decode,), ({}.__getitem__, TEXT),
        ("\ud800Marked".encode,), (orjson.loads, TEXT), (json.loads, TEXT), (np.int8, WHOLE), (bytes.fromhex, TEXT),
        ([].index, TEXT), (np.zeros(3).take, WHOLE), (Datatype, TEXT),
    ]  # fmt: skip
    for call, *arguments in quoting:
        error = raised_by(call, *arguments)
        check([error], 1)
        assert not marks_in(told_by(error)), told_by(error)
        outer = raised_by(in_vain, error)  # as a loop's own fault, with what caused it
        assert not marks_in(trace_of(outer))
        assert "in_vain" in trace_of(outer)
        assert not marks_in(str(_of_ray(outer)))  # type: ignore[arg-type]


def in_vain(cause: Exception) -> None:
    raise RuntimeError(TEXT) from cause


def test_what_may_be_told_is_told() -> None:
    """Nobody can mend what is not told at all: places, kinds and our own words stay."""
    assert words_of(FileNotFoundError(2, "No such file", "/data/x")) == "[Errno 2] No such file: '/data/x'"
    assert kind_and_words(ImportError("No module named 'lime'")) == "ImportError: No module named 'lime'"
    assert words_of(ValueError("Ada")) == "ValueError"
    assert str(raised_by(b"a\xff".decode)) != words_of(raised_by(b"a\xff".decode)) == "no utf-8 at byte 1"
    wire = to_wire(EngineFailure("the model failed", where="m"))
    assert str(from_wire(wire)) == "m: the model failed"
    ort = RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Gather node. "
        "Name:'/emb/Gather' Status Message: indices element out of data bounds, idx=731592 must be within the range [-1,0]"
    )
    told = "RuntimeError: RUNTIME_EXCEPTION, while running Gather node. Name:'/emb/Gather', indices element out of data bounds"
    assert told_by(ort) == told
    shapes = RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")
    assert told_by(shapes) == f"RuntimeError: {shapes}"
    assert "can't allocate memory" in told_by(RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried 1"))


def test_a_line_that_another_formatter_has_seen() -> None:
    error = raised_by(int, TEXT)
    record = logging.LogRecord("ray.serve", logging.ERROR, "", 0, "failed", (), (type(error), error, error.__traceback__))
    assert marks_in(logging.Formatter().format(record))  # which keeps its text in the record
    assert not marks_in(LineFormatter(LogForm.TEXT, {}).format(record))


def onnx_engine(folder: Path, kind: str) -> tuple[Any, dict[str, Any]]:
    """An engine that fails on a row, whose own text quotes it; and the row."""
    if kind == "gather":
        nodes = [helper.make_node("Gather", ["table", "x"], ["y"], name="/emb/Gather")]
        constants = [helper.make_tensor("table", TensorProto.FLOAT, [2], [1.0, 2.0])]
        source, tensors = TensorProto.INT64, {"x": np.array([WHOLE], np.int64)}
        spec = TensorSpec(name="x", datatype=Datatype.INT64, shape=(-1,))
    else:
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT, name="/in/Cast")]
        constants, source = [], TensorProto.STRING
        tensors = {"x": np.array([TEXT.encode()], np.object_)}
        spec = TensorSpec(name="x", datatype=Datatype.BYTES, shape=(-1,))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", source, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    signature = Signature(inputs=(spec,), outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1,)),))
    return OnnxEngine(file, signature, threads=1, gpus=0), tensors


def test_a_group_tells_where_each_of_its_errors_came_from() -> None:
    """Tasks that end together raise one: without the frames within it nobody would find what failed."""
    inner = raised_by(in_vain, OSError(98, "Address already in use"))
    told = trace_of(raised_by(_fails_with, ExceptionGroup("unhandled errors", [inner, ExceptionGroup("more", [inner])])))
    assert told.count("in in_vain") == 1
    assert told.index("Address already in use") < told.index("in in_vain")
    assert "_fails_with" in told
    assert TEXT not in told


def _fails_with(error: Exception) -> None:
    raise error
