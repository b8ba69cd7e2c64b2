"""Avro as others write it: dates and decimals are numbers, and no schema and no record ends the process or harms a neighbour."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.signature import Datatype, Signature, TensorSpec
from consumers.stream.codecs.codec import Decoded
from consumers.stream.codecs.formats import make_decoder
from consumers.stream.codecs.registry import Schemas
from consumers.stream.security import Registry
from consumers.stream.spec import Format, StreamInput
from tests.support.schema_registry import SchemaRegistry, avro, framed, schema_registry

F = TensorSpec(name="f", datatype=Datatype.FP64, shape=(-1,))
I = TensorSpec(name="f", datatype=Datatype.INT64, shape=(-1,))  # noqa: E741  # as in I64
TEXT = TensorSpec(name="f", datatype=Datatype.BYTES, shape=(-1,))
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
FIXED = {"type": "fixed", "name": "Money", "size": 6, "logicalType": "decimal", "precision": 9, "scale": 2}


def logical(kind: str, name: str) -> dict[str, Any]:
    return {"type": kind, "logicalType": name}


@pytest.fixture(scope="module")
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


def decode(
    registry: SchemaRegistry,
    schema: Any,
    bodies: Sequence[bytes],
    *inputs: TensorSpec,
    references: list[dict[str, Any]] | None = None,
    **fields: str,
) -> Decoded:
    """The bodies as written with the schema, at the input that is given."""
    number = registry.register("t", schema, references=references)
    schemas = Schemas(Registry(url=registry.url))
    given_ = StreamInput(topic="t", format=Format.AVRO, fields=fields)
    decoder = make_decoder(Signature(inputs=inputs, outputs=()), given_, schemas)
    try:
        return decoder.decode([framed(number, body) for body in bodies], [[]] * len(bodies))
    finally:
        schemas.close()


def row(kind: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Row", "fields": [{"name": "f", "type": kind}]}


@pytest.mark.parametrize(
    ("kind", "written", "number"),
    [
        (logical("long", "timestamp-millis"), datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), 1_700_000_000_000),
        (logical("long", "timestamp-micros"), datetime(2023, 11, 14, 22, 13, 20, 7, tzinfo=UTC), 1_700_000_000_000_007),
        (logical("long", "timestamp-nanos"), 1_700_000_000_000_000_001, 1_700_000_000_000_000_001),
        (logical("long", "local-timestamp-millis"), datetime(1970, 1, 2), 86_400_000),  # noqa: DTZ001  # local it is
        (logical("long", "local-timestamp-micros"), datetime(1969, 12, 31), -86_400_000_000),  # noqa: DTZ001
        (logical("int", "date"), date(1970, 1, 1) + timedelta(days=19_675), 19_675),
        (logical("int", "date"), date(1, 1, 1), -719_162),
        (logical("int", "time-millis"), time(23, 59, 59, 999_000), 86_399_999),
        (logical("long", "time-micros"), time(0, 0, 1, 5), 1_000_005),
        (DECIMAL, Decimal("12.34"), 12.34),
        (DECIMAL, Decimal("-0.01"), -0.01),
        (FIXED, Decimal("1234567.89"), 1234567.89),
        (logical("int", "no-such-type"), 7, 7),
        (["null", logical("long", "timestamp-millis")], datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), 1_700_000_000_000),
        ([DECIMAL, "null", "string"], Decimal("12.34"), 12.34),
    ],
)
def test_a_logical_type_is_its_number(registry: SchemaRegistry, kind: Any, written: Any, number: float) -> None:
    decoded = decode(registry, row(kind), [avro(row(kind), {"f": written})], F)
    assert decoded.errors == {}
    assert decoded.tensors["f"].tolist() == [float(number)]
    if isinstance(number, int):
        assert decode(registry, row(kind), [avro(row(kind), {"f": written})], I).tensors["f"].tolist() == [number]


@pytest.mark.parametrize(
    ("kind", "far"),
    [
        (logical("long", "timestamp-millis"), 253_402_300_800_000),  # the year 10000
        (logical("long", "timestamp-micros"), -(2**63)),
        (logical("long", "local-timestamp-millis"), 2**63 - 1),
        (logical("int", "date"), 2**31 - 1),
        (logical("int", "time-millis"), -5),
        (logical("long", "time-micros"), 2**60),
    ],
)
def test_times_that_python_does_not_have_are_numbers_too(registry: SchemaRegistry, kind: Any, far: int) -> None:
    bodies = [avro(row(kind["type"]), {"f": value}) for value in (1, far, 2)]
    decoded = decode(registry, row(kind), bodies, I)
    assert decoded.errors == {}
    assert decoded.tensors["f"].tolist() == [1, far, 2]


def test_logical_types_lie_deep_in_lists_and_behind_names(registry: SchemaRegistry) -> None:
    stamp = logical("long", "timestamp-millis")
    money = {
        "type": "record",
        "name": "Money",
        "fields": [{"name": "amount", "type": ["null", DECIMAL]}, {"name": "at", "type": stamp}],
    }
    registry.register("money", {**money, "namespace": "com.bank"})
    event = {
        "type": "record",
        "name": "Event",
        "namespace": "com.bank",
        "fields": [
            {"name": "times", "type": {"type": "array", "items": ["null", stamp]}},
            {"name": "first", "type": "Money"},
            {"name": "then", "type": {"type": "map", "values": "Money"}},
        ],
    }
    whole = {**event, "fields": [event["fields"][0], {"name": "first", "type": money}, event["fields"][2]]}  # type: ignore[index]
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    first, then = {"amount": Decimal("12.34"), "at": at}, {"amount": Decimal("0.50"), "at": at}
    bodies = [
        avro(whole, {"times": [at, at], "first": first, "then": {"b": then}}),
        avro(whole, {"times": [at, None], "first": first, "then": {"b": then}}),
        avro(whole, {"times": [at, at], "first": {"amount": None, "at": at}, "then": {"b": then}}),
        avro(whole, {"times": [at, at], "first": first, "then": {}}),
        avro(whole, {"times": [at, at, at], "first": first, "then": {"b": then}}),
        avro(whole, {"times": [at, at], "first": then, "then": {"b": first}}),
    ]
    inputs = [
        TensorSpec(name="times", datatype=Datatype.FP64, shape=(-1, 2)),
        TensorSpec(name="amount", datatype=Datatype.FP32, shape=(-1,)),
        TensorSpec(name="at", datatype=Datatype.INT64, shape=(-1,)),
        TensorSpec(name="then", datatype=Datatype.FP64, shape=(-1, 1)),
    ]
    references = [{"name": "com.bank.Money", "subject": "money", "version": 1}]
    paths = {"amount": "/first/amount", "at": "/then/b/at", "then": "/then/b/amount"}
    decoded = decode(registry, event, bodies, *inputs, references=references, **paths)
    assert list(decoded.rows) == [0, 1, 2, 5]
    when, missing = 1_700_000_000_000, float("nan")  # what is null is missing, and the model's document says whether it may be
    np.testing.assert_array_equal(decoded.tensors["times"], [[when, when], [when, missing], [when, when], [when, when]])
    np.testing.assert_array_equal(decoded.tensors["amount"], np.array([12.34, 12.34, missing, 0.5], dtype=np.float32))
    assert decoded.tensors["at"].tolist() == [1_700_000_000_000] * 4
    assert decoded.tensors["then"].tolist() == [[0.5], [0.5], [0.5], [12.34]]
    assert {place: (error.where, error.what) for place, error in decoded.errors.items()} == {
        3: ("/then/b/at", "missing"),
        4: ("times", "the shape must be [2], got 3 items"),
    }


def test_whole_numbers_take_only_decimals_that_are_whole(registry: SchemaRegistry) -> None:
    spec = TensorSpec(name="f", datatype=Datatype.INT8, shape=(-1,))
    bodies = [avro(row(DECIMAL), {"f": Decimal(text)}) for text in ("5.00", "5.01", "-128", "128", "1000000", "0")]
    decoded = decode(registry, row(DECIMAL), bodies, spec)
    assert decoded.tensors["f"].tolist() == [5, -128, 0]
    assert sorted(decoded.errors) == [1, 3, 4]
    assert "whole number" in str(decoded.errors[1])
    unsigned = TensorSpec(name="f", datatype=Datatype.UINT64, shape=(-1,))
    large = row({**DECIMAL, "precision": 30, "scale": 0})
    bodies = [avro(large, {"f": Decimal(number)}) for number in (2**64 - 1, 2**64, -1, 10**29)]
    decoded = decode(registry, large, bodies, unsigned)
    assert decoded.tensors["f"].tolist() == [2**64 - 1]
    assert sorted(decoded.errors) == [1, 2, 3]


def test_a_decimal_of_more_digits_than_declared_is_not_rounded(registry: SchemaRegistry) -> None:
    bodies = [avro(row("bytes"), {"f": number.to_bytes(6, "big")}) for number in (123_456_789_012, 1)]
    assert decode(registry, row({**DECIMAL, "precision": 4}), bodies, F).tensors["f"].tolist() == [1_234_567_890.12, 0.01]
    fixed = [number.to_bytes(6, "big") for number in (123_456_789_012, 1)]
    assert decode(registry, row({**FIXED, "precision": 4}), fixed, F).tensors["f"].tolist() == [1_234_567_890.12, 0.01]


def test_a_decimal_of_a_megabyte_takes_no_time(registry: SchemaRegistry) -> None:
    """It would take minutes, with the interpreter's lock held."""
    bodies = [avro(row("bytes"), {"f": data}) for data in (b"\x07", b"\x7f" * 1_000_000, b"\x08")]
    decoded = decode(registry, row(DECIMAL), bodies, F)
    assert decoded.tensors["f"].tolist() == [0.07, 0.08]
    assert "a decimal of 1000000 bytes" in str(decoded.errors[1])


@pytest.mark.parametrize("wrong", [{"precision": None}, {"precision": "4"}, {"scale": -1}, {"scale": 99}, {"precision": True}])
def test_an_unsound_decimal_is_the_bytes_that_it_is(registry: SchemaRegistry, wrong: dict[str, Any]) -> None:
    body = avro(row("bytes"), {"f": b"\x01"})
    assert decode(registry, row({**DECIMAL, **wrong}), [body], TEXT).tensors["f"].tolist() == [b"\x01"]
    assert "got bytes" in str(decode(registry, row({**DECIMAL, **wrong}), [body], F).errors[0])


@pytest.mark.thorough
def test_texts_are_uuids_enums_and_bytes_but_no_numbers(registry: SchemaRegistry) -> None:
    one = uuid.uuid4()
    enum = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    for kind, written, text in (
        (logical("string", "uuid"), one, str(one).encode()),
        ({"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}, one.bytes, one.bytes),
        (enum, "B", b"B"),
        (["null", enum], "A", b"A"),
        ({"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}, b"x" * 12, b"x" * 12),
    ):
        body = avro(row(kind), {"f": written})
        assert decode(registry, row(kind), [body], TEXT).tensors["f"].tolist() == [text]
        assert "expected FP64 values" in str(decode(registry, row(kind), [body], F).errors[0])
    odd = avro(row("string"), {"f": "no uuid"})  # what is in a text is not looked at
    assert decode(registry, row(logical("string", "uuid")), [odd], TEXT).tensors["f"].tolist() == [b"no uuid"]
    for kind, number in ((DECIMAL, Decimal(1)), (logical("int", "date"), 1)):
        assert "expected text" in str(decode(registry, row(kind), [avro(row(kind), {"f": number})], TEXT).errors[0])


def test_a_choice_of_schemas_by_reference_is_read(registry: SchemaRegistry) -> None:
    """As a topic of several kinds of events has it."""
    other = {"type": "record", "name": "Other", "fields": [{"name": "f", "type": logical("int", "date")}]}
    registry.register("row", row("double"))
    registry.register("other", other)
    references = [{"name": name, "subject": name.lower(), "version": 1} for name in ("Row", "Other")]
    bodies = [b"\x00" + avro(row("double"), {"f": 1.5}), b"\x02" + avro(other, {"f": 3}), b"\x04"]
    decoded = decode(registry, ["Row", "Other"], bodies, F, references=references)
    assert decoded.tensors["f"].tolist() == [1.5, 3]
    assert sorted(decoded.errors) == [2]


TREE = {
    "type": "record",
    "name": "Tree",
    "fields": [{"name": "f", "type": "double"}, {"name": "below", "type": {"type": "array", "items": "Tree"}}],
}


def test_a_schema_that_names_itself_is_read_as_deep_as_is_sensible(registry: SchemaRegistry) -> None:
    """Not so deep that the stack of the process ends, which nothing could catch."""
    leaf = {"f": 2.5, "below": []}
    good = avro(TREE, {"f": 1.5, "below": [leaf, {"f": 3, "below": [leaf]}]})
    level = avro("double", 1.0) + b"\x02"
    bodies = [good, level * 100_000 + avro("double", 1.0) + b"\x00" * 100_001, level, good]
    decoded = decode(registry, TREE, bodies, F)
    assert decoded.tensors["f"].tolist() == [1.5, 1.5]
    assert sorted(decoded.errors) == [1, 2]
    depth = TensorSpec(name="x", datatype=Datatype.FP64, shape=(-1,))
    assert decode(registry, TREE, [good], depth, x="/below/1/below/0/f").tensors["x"].tolist() == [2.5]
    choice = {"type": "record", "name": "L", "fields": [{"name": "f", "type": ["double", "L"]}]}
    deep = decode(registry, choice, [b"\x02" * 1_000_000, b"\x00" + avro("double", 1.0)], F)
    assert deep.tensors["f"].tolist() == [1.0]


def chain(length: int) -> list[dict[str, Any]]:
    """Flat as text; as deep as it is long where it is read."""
    first: dict[str, Any] = {"type": "record", "name": "R0", "fields": []}
    return [first] + [
        {"type": "record", "name": f"R{i}", "fields": [{"name": "f", "type": f"R{i - 1}"}]} for i in range(1, length)
    ]


@pytest.mark.parametrize(
    "schema",
    [
        row("Row"),  # itself, in no byte
        {"type": "array", "items": "null"},
        {"type": "array", "items": row({"type": "fixed", "name": "Z", "size": 0})},
        chain(20_000),
        '{"type":"array","items":' * 900 + '"int"' + "}" * 900,
        '{"type":"array","items":' * 50_000 + '"int"' + "}" * 50_000,
        {"__fastavro_parsed": True, "__named_schemas": {}, "type": "record", "name": "x"},
        {**row("Row"), "__fastavro_parsed": True, "__named_schemas": {"Row": row("Row")}},
        {"type": "fixed", "name": "x", "size": "a"},
        {"type": "enum", "name": "x", "symbols": []},
        {"type": "record", "name": "x", "fields": [{"name": [], "type": "int"}]},
        {"type": "array", "items": 3},
        "", "[]", "null", "3", "{", '{"type": {"type": []}}', '"no-such"', '{"type": "map"}',
    ],
    ids=range(20),
)  # fmt: skip
def test_no_schema_harms_a_neighbour(registry: SchemaRegistry, schema: Any) -> None:
    bad, good = registry.register("t", schema), registry.register("t", row("double"))
    schemas = Schemas(Registry(url=registry.url))
    decoder = make_decoder(Signature(inputs=(F,), outputs=()), StreamInput(topic="t", format=Format.AVRO), schemas)
    endless = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # a list of 2**63 - 1 items
    bodies = [b"", b"\x00", endless, b"\x02" * 100_000, avro("long", 39_998) + b"\x00" * 9]
    mixed = [framed(good, avro("double", 1.5)), *(framed(bad, body) for body in bodies), framed(good, avro("double", 2.5))]
    for _ in range(2):
        decoded = decoder.decode(mixed, [[]] * len(mixed))
        assert decoded.tensors["f"].tolist() == [1.5, 2.5]
        assert sorted(decoded.errors) == [1, 2, 3, 4, 5]
    schemas.close()


@pytest.mark.thorough
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**62), 2**62), st.decimals(-(10**6), 10**6, places=2))
def test_what_is_written_is_what_is_read(registry: SchemaRegistry, number: float, at: int, price: Decimal) -> None:
    names = {"f": "double", "at": logical("long", "timestamp-micros"), "price": DECIMAL}
    schema = {"type": "record", "name": "All", "fields": [{"name": name, "type": kind} for name, kind in names.items()]}
    plain = {
        **schema,
        "fields": [{"name": "f", "type": "double"}, {"name": "at", "type": "long"}, {"name": "price", "type": DECIMAL}],
    }
    at_input = TensorSpec(name="at", datatype=Datatype.INT64, shape=(-1,))
    price_input = TensorSpec(name="price", datatype=Datatype.FP64, shape=(-1,))
    decoded = decode(registry, schema, [avro(plain, {"f": number, "at": at, "price": price})], F, at_input, price_input)
    assert decoded.errors == {}
    found = {name: array.tolist()[0] for name, array in decoded.tensors.items()}
    assert found == {"f": number, "at": at, "price": float(price)}
    assert math.copysign(1, found["f"]) == math.copysign(1, number)
