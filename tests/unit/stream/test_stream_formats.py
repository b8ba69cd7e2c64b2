"""Arrow, CloudEvents, and what a schema registry frames: good rows are scored, each bad one is refused by itself."""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BadInput, Unreachable
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.stream.codecs.cloudevents import Envelope
from consumers.stream.codecs.codec import Decoded, Decoder
from consumers.stream.codecs.formats import make_decoder, make_encoder
from consumers.stream.codecs.registry import Schemas
from consumers.stream.log.port import Header
from consumers.stream.security import Registry
from consumers.stream.spec import Format, InputEnvelope, OutputEnvelope, StreamInput, StreamOutput, StreamSpec
from deployments.engines.datatypes import NUMPY
from tests.support.schema_registry import SchemaRegistry, avro, framed, schema_registry

X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2, 2))
N = TensorSpec(name="n", datatype=Datatype.INT8, shape=(-1,))
SIGNATURE = Signature(inputs=(X, N), outputs=(X, N))
TENSORS: dict[str, Any] = {
    "x": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
    "n": np.array([3, -4], dtype=np.int8),
}
RECORD = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "x", "type": {"type": "array", "items": "float"}},
        {"name": "who", "type": {"type": "record", "name": "Who", "fields": [{"name": "n", "type": ["null", "int"]}]}},
    ],
}
BINARY = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/s"),
    ("ce_type", b"t"),
    ("content-type", b"application/json"),
]
STRUCTURED: list[Header] = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
ABOUT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def check_same(decoded: Decoded, rows: Sequence[int], expected: dict[str, Any] = TENSORS) -> None:
    assert list(decoded.rows) == list(rows)
    for name, array in expected.items():
        np.testing.assert_array_equal(decoded.tensors[name], array)
        assert decoded.tensors[name].dtype == array.dtype


def arrow(batch: pa.RecordBatch | pa.Table, *, file: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, batch.schema) as writer:
        writer.write(batch)
    return bytes(sink.getvalue())


def arrow_row(x: list[float], n: int, *, list_type: pa.DataType | None = None) -> pa.RecordBatch:
    kind = list_type or pa.list_(pa.float32())
    return pa.record_batch({"x": pa.array([x], type=kind), "n": pa.array([n], type=pa.int64())})


def test_arrow_goes_through_both_ways() -> None:
    values = make_encoder(SIGNATURE, StreamOutput(topic="o", format=Format.ARROW)).encode(TENSORS)
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.ARROW))
    decoded = decoder.decode([values[0], None, b"", b"junk", values[0][:-60], values[1]])
    check_same(decoded, [0, 5])
    assert sorted(decoded.errors) == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0)])
@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.BOOL, Datatype.BYTES])
def test_arrow_answers_may_hold_nothing(datatype: Datatype, shape: tuple[int, ...]) -> None:
    found = TensorSpec(name="found", datatype=datatype, shape=(-1, *(-1 if axis == 0 else axis for axis in shape)))
    encoder = make_encoder(Signature(inputs=(N,), outputs=(found,)), StreamOutput(topic="o", format=Format.ARROW))
    values = encoder.encode({"found": np.empty((2, *shape), dtype=NUMPY[datatype])})
    for value in values:
        read = pa.ipc.open_stream(value).read_all()
        assert read.num_rows == 1
        assert read.column("found").to_pylist() == [[]]
    assert len(values) == 2


def test_arrow_rows_of_several_schemas_keep_their_order() -> None:
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.ARROW))
    doubles = pa.list_(pa.float64(), 4)
    values = [
        arrow(arrow_row([0, 1, 2, 3], 1)),
        arrow(arrow_row([4, 5, 6, 7], 2, list_type=doubles)),
        arrow(arrow_row([8, 9, 10], 3)),  # too short
        arrow(arrow_row([8, 9, 10, 11], 300)),  # no INT8
        arrow(pa.record_batch({"x": pa.array([[0.0] * 4])})),  # no n
        arrow(pa.Table.from_batches([arrow_row([0] * 4, 1), arrow_row([0] * 4, 2)])),  # two rows
        arrow(arrow_row([8, 9, 10, 11], 4), file=True),
        arrow(arrow_row([12, 13, 14, 15], 5, list_type=doubles)),
    ]
    decoded = decoder.decode(values)
    expected = {"x": np.arange(16, dtype=np.float32).reshape(4, 2, 2), "n": np.array([1, 2, 4, 5], dtype=np.int8)}
    check_same(decoded, [0, 1, 6, 7], expected)
    assert sorted(decoded.errors) == [2, 3, 4, 5]
    assert "2 rows" in str(decoded.errors[5])


WHEN = TensorSpec(name="t", datatype=Datatype.INT64, shape=(-1, 2))
PRICE = TensorSpec(name="p", datatype=Datatype.FP64, shape=(-1,))


def logical_arrow(when: pa.DataType, price: Sequence[Decimal], count: Sequence[Decimal | None], at: list[int]) -> bytes:
    """A row with a list of two times, in a column of the type, and decimals."""
    times = pa.array([at], pa.list_(pa.int32() if when.bit_width == 32 else pa.int64()))
    columns = {
        "t": times.cast(pa.list_(when)),
        "p": pa.array(price, pa.decimal128(30, 3)),
        "n": pa.array(count, pa.decimal32(6, 2)),
    }
    return arrow(pa.record_batch(columns))


@pytest.mark.parametrize(
    ("when", "at"),
    [
        (pa.timestamp("ms", "Europe/Paris"), [1_700_000_000_000, -1]),
        (pa.timestamp("us"), [10**18, 5]),  # no year that Python knows
        (pa.date32(), [19_000, -1]),
        (pa.date32(), [100_000_000, 0]),
        (pa.date64(), [86_400_000, 0]),
        (pa.time32("ms"), [86_399_999, 1]),
        (pa.time64("ns"), [5, 6]),
        (pa.duration("s"), [-5, 10**15]),
    ],
)
def test_arrows_times_and_decimals_are_numbers(when: pa.DataType, at: list[int]) -> None:
    spec = Signature(inputs=(WHEN, PRICE, N), outputs=())
    values = [
        logical_arrow(when, [Decimal("12.34")], [Decimal("5.00")], at),
        logical_arrow(when, [Decimal("1.000")], [Decimal("5.50")], at),  # no whole number
        logical_arrow(when, [Decimal("1.000")], [Decimal("300.00")], at),  # no INT8
        logical_arrow(when, [Decimal("1.000")], [None], at),
        logical_arrow(when, [Decimal("-612345678901.337")], [Decimal("-6.00")], at),
    ]
    decoded = make_decoder(spec, StreamInput(topic="t", format=Format.ARROW)).decode(values)
    tensors = {
        "t": np.array([at] * 2),
        "p": np.array([12.34, -612345678901.337]),
        "n": np.array([5, -6], dtype=np.int8),
    }
    check_same(decoded, [0, 4], tensors)
    assert sorted(decoded.errors) == [1, 2, 3]


def test_arrows_one_decimal_is_a_whole_number_for_one_input_and_none_for_another() -> None:
    whole = TensorSpec(name="n", datatype=Datatype.INT64, shape=(-1,))
    decoder = make_decoder(
        Signature(inputs=(PRICE, whole), outputs=()), StreamInput(topic="t", format=Format.ARROW, fields={"n": "p"})
    )
    values = [arrow(pa.record_batch({"p": pa.array([Decimal(price)], pa.decimal128(2, 1))})) for price in ("1.5", "2.0")]
    decoded = decoder.decode(values)
    assert "column p holds a value that INT64 can't hold" in str(decoded.errors[0])
    check_same(decoded, [1], {"p": np.array([2.0]), "n": np.array([2])})


def test_arrows_dictionaries_are_what_they_stand_for() -> None:
    name = TensorSpec(name="name", datatype=Datatype.BYTES, shape=(-1,))
    spec = Signature(inputs=(PRICE, name), outputs=())

    def row(price: float | None, text: str | None) -> bytes:
        """Nulls stand in the dictionary itself."""
        columns = {
            "p": pa.DictionaryArray.from_arrays(pa.array([1]), pa.array([0.0, price])),
            "name": pa.DictionaryArray.from_arrays(pa.array([1]), pa.array(["", text])),
        }
        return arrow(pa.record_batch(columns))

    values = [row(1.5, "a"), row(None, "b"), row(2.5, None), row(-1.5, "c")]
    decoded = make_decoder(spec, StreamInput(topic="t", format=Format.ARROW)).decode(values)
    expected = {"p": np.array([1.5, math.nan, -1.5]), "name": np.array([b"a", b"b", b"c"], dtype=object)}
    check_same(decoded, [0, 1, 3], expected)
    assert sorted(decoded.errors) == [2]


@given(st.integers(0, 700), st.binary(min_size=1, max_size=6))
def test_spoilt_arrow_never_raises(at: int, junk: bytes) -> None:
    whole = bytearray(arrow(arrow_row([0, 1, 2, 3], 1)))
    at %= len(whole)
    whole[at : at + len(junk)] = junk
    good = arrow(arrow_row([4, 5, 6, 7], 2))
    decoded = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.ARROW)).decode([bytes(whole), good])
    assert 1 in decoded.rows
    assert sorted([*decoded.rows, *decoded.errors]) == [0, 1]


def cloud(format_: Format = Format.JSON, schemas: Schemas | None = None) -> Decoder:
    return make_decoder(SIGNATURE, StreamInput(topic="t", format=format_, envelope=InputEnvelope.CLOUDEVENTS), schemas)


def test_cloudevents_are_taken_in_both_modes() -> None:
    data = {"x": [[0, 1], [2, 3]], "n": 3}
    other = {"x": [[4, 5], [6, 7]], "n": -4}
    values = [
        orjson.dumps({**ABOUT, "data": data}),
        b"{}",
        orjson.dumps({**ABOUT, "id": "", "data": data}),
        orjson.dumps(ABOUT),
        b"{",
        orjson.dumps(other),
    ]
    headers = [STRUCTURED, [("ce_id", b"1")], STRUCTURED, STRUCTURED, STRUCTURED, BINARY]
    decoded = cloud().decode(values, headers)
    check_same(decoded, [0, 5])
    assert {row: error.where for row, error in decoded.errors.items()} == {
        1: "header ce_specversion",
        2: "value",
        3: "/data/x",
        4: "value",
    }


def test_cloudevents_carry_other_formats_in_base64() -> None:
    values = make_encoder(SIGNATURE, StreamOutput(topic="o", format=Format.RAW)).encode(TENSORS)
    whole = orjson.dumps({**ABOUT, "data_base64": base64.b64encode(values[1]).decode()})
    spoilt = orjson.dumps({**ABOUT, "data_base64": "%%%"})
    decoded = cloud(Format.RAW).decode([values[0], spoilt, whole, b"[]"], [BINARY, STRUCTURED, STRUCTURED, STRUCTURED])
    check_same(decoded, [0, 2])
    assert sorted(decoded.errors) == [1, 3]
    assert list(cloud(Format.RAW).decode([b""], [[]]).rows) == []


def test_answers_leave_as_cloudevents() -> None:
    structured = Envelope(OutputEnvelope.STRUCTURED, Format.JSON, "m")
    body = structured.wrap(b'{"sum":1}', b"in/0/7")
    assert body is not None
    event = orjson.loads(body)
    assert event == {
        "specversion": "1.0",
        "id": "in/0/7",
        "source": "/headrace/m",
        "type": "headrace.prediction",
        "datacontenttype": "application/json",
        "data": {"sum": 1},
    }
    assert structured.wrap(None, b"in/0/7") is None
    raw = Envelope(OutputEnvelope.STRUCTURED, Format.RAW, "m").wrap(b"\x00\x01", b"i")
    assert raw is not None
    assert base64.b64decode(orjson.loads(raw)["data_base64"]) == b"\x00\x01"
    binary = Envelope(OutputEnvelope.BINARY, Format.JSON, "m")
    assert binary.wrap(b"{}", b"i") == b"{}"
    assert dict(binary.headers(b"i"))["ce_id"] == b"i"


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


@pytest.fixture
def schemas(registry: SchemaRegistry) -> Iterator[Schemas]:
    made = Schemas(Registry(url=registry.url))
    yield made
    made.close()


def test_avro_is_read_with_the_schema_that_stands_before_it(registry: SchemaRegistry, schemas: Schemas) -> None:
    number = registry.register("t-value", RECORD)
    text = registry.register("t-value", {"type": "object"}, "JSON")
    broken = registry.register("t-value", {"type": "no-such-type"})
    first = avro(RECORD, {"x": [0, 1, 2, 3], "who": {"n": 3}})
    second = avro(RECORD, {"x": [4, 5, 6, 7], "who": {"n": -4}})
    guid = b"\x01" + uuid.UUID(registry.schemas[number]["guid"]).bytes
    bad: list[bytes | None] = [
        None,
        b"",
        b"\x00\x00",
        framed(number, first, magic=7),
        framed(999, first),
        framed(text, first),
        framed(broken, first),
        framed(number, first[:-2]),
        framed(number, first + b"!"),
        framed(number, avro(RECORD, {"x": [0, 1, 2], "who": {"n": 3}})),
        framed(number, avro(RECORD, {"x": [0, 1, 2, 3], "who": {"n": None}})),
        framed(number, avro(RECORD, {"x": [0, 1, 2, 3], "who": {"n": 400}})),
    ]
    values = [framed(number, first), *bad, second]
    headers: list[list[Header]] = [[] for _ in values]
    headers[-1] = [("__value_schema_id", guid)]
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO, fields={"n": "/who/n"}), schemas)
    decoded = decoder.decode(values, headers)
    check_same(decoded, [0, len(values) - 1])
    assert sorted(decoded.errors) == list(range(1, len(values) - 1))
    calls = len(registry.calls)
    decoder.decode(values, headers)
    assert len(registry.calls) == calls  # what is known and what is not is remembered


def test_avro_follows_references(registry: SchemaRegistry, schemas: Schemas) -> None:
    who = {"type": "record", "name": "Who", "fields": [{"name": "n", "type": "int"}]}
    registry.register("who", who)
    event = {
        "type": "record",
        "name": "Event",
        "fields": [{"name": "x", "type": {"type": "array", "items": "float"}}, {"name": "who", "type": "Who"}],
    }
    number = registry.register("t-value", event, references=[{"name": "Who", "subject": "who", "version": 1}])
    whole = {**event, "fields": [event["fields"][0], {"name": "who", "type": who}]}  # type: ignore[index]
    value = framed(number, avro(whole, {"x": [0, 1, 2, 3], "who": {"n": 3}}))
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO, fields={"n": "/who/n"}), schemas)
    assert decoder.decode([value], [[]]).errors == {}


@given(st.binary(max_size=60))
def test_avro_that_is_none_never_raises(body: bytes) -> None:
    class Known:
        def find(self, _: object) -> Any:
            return type("Found", (), {"kind": "AVRO", "text": orjson.dumps(RECORD).decode(), "references": {}})

    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO), Known())  # type: ignore[arg-type]
    decoded = decoder.decode([framed(1, body), body], [[], []])
    assert sorted([*decoded.rows, *decoded.errors]) == [0, 1]


def test_framed_json_is_scored_and_its_schema_must_exist(registry: SchemaRegistry, schemas: Schemas) -> None:
    number = registry.register("t-value", {"type": "object"}, "JSON")
    avros = registry.register("t-value", RECORD)
    first = b'{"x": [0, 1, 2, 3], "n": 3}'
    values = [
        framed(number, first),
        framed(77, first),
        framed(avros, first),
        first,
        framed(number, b'{"x": [4, 5, 6, 7], "n": -4}'),
    ]
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.JSON_SCHEMA), schemas)
    decoded = decoder.decode(values, [[]] * 5)
    check_same(decoded, [0, 4])
    assert "knows no schema 77" in str(decoded.errors[1])
    assert "first byte is not 0" in str(decoded.errors[3])


@pytest.mark.parametrize("format_", [Format.AVRO, Format.JSON_SCHEMA])
def test_answers_are_framed_with_a_schema_registered_for_their_topic(
    registry: SchemaRegistry, schemas: Schemas, format_: Format
) -> None:
    values = make_encoder(SIGNATURE, StreamOutput(topic="o", format=format_), schemas).encode(TENSORS)
    assert registry.subjects == {"o-value": [1]}
    decoded = make_decoder(SIGNATURE, StreamInput(topic="o", format=format_), schemas).decode(values, [[], []])
    check_same(decoded, [0, 1])


def test_a_registry_that_is_away_is_no_fault_of_the_record(registry: SchemaRegistry, schemas: Schemas) -> None:
    number = registry.register("t-value", RECORD)
    registry.away = True
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO, fields={"n": "/who/n"}), schemas)
    value = framed(number, avro(RECORD, {"x": [0, 1, 2, 3], "who": {"n": 3}}))
    with pytest.raises(Unreachable, match="503"):
        decoder.decode([value], [[]])
    registry.away = False
    assert decoder.decode([value], [[]]).errors == {}
    with pytest.raises(Unreachable, match="does not answer"):
        Schemas(Registry(url="http://127.0.0.1:1")).find(1)


def test_a_registrys_password_is_never_in_the_document_nor_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = Registry(url="http://127.0.0.1:1", username="u", password_env="SR_PASSWORD")  # noqa: S106  # a name
    with pytest.raises(BadInput, match="SR_PASSWORD is not set"):
        Schemas(given_)
    monkeypatch.setenv("SR_PASSWORD", "hush-hush")
    with pytest.raises(Unreachable) as caught:
        Schemas(given_).find(1)
    assert "hush" not in f"{caught.value}{caught.value.__cause__!r}{given_!r}"


def document(**given: Any) -> dict[str, Any]:
    return {"model": "m", "input": {"topic": "in"}, "output": {"topic": "out"}, "dead_letters": {"topic": "dead"}, **given}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"input": {}}, "one of topic, topics and pattern"),
        ({"input": {"topic": "a", "topics": ["b"]}}, "one of topic, topics and pattern"),
        ({"input": {"topics": ["a b"]}}, "can't be a topic's name"),
        ({"input": {"topics": ["out"]}}, "three topics"),
        ({"input": {"pattern": "d.*"}}, "takes in dead"),
        ({"input": {"pattern": "("}}, "no regular expression"),
        ({"input": {"topic": "in", "format": "avro"}}, "need a registry"),
    ],
)
def test_a_document_that_can_not_work_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StreamSpec.model_validate(document(**wrong))
