"""A schema registry as it should not be: what it does not say costs no record, and what it does say is believed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from cluster.errors import BadInput, NotFound, Unreachable
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.stream.codecs import registry as module
from consumers.stream.codecs.formats import make_decoder, make_encoder
from consumers.stream.codecs.registry import Schemas
from consumers.stream.security import Registry
from consumers.stream.spec import Format, StreamInput, StreamOutput
from tests.support.schema_registry import SchemaRegistry, avro, framed, schema_registry

N = TensorSpec(name="n", datatype=Datatype.INT64, shape=(-1,))
SIGNATURE = Signature(inputs=(N,), outputs=(N,))
ROW = {"type": "record", "name": "Row", "fields": [{"name": "n", "type": "long"}]}
INSTEAD = {
    "html": (200, b"<html>welcome</html>"),
    "empty": (200, b""),
    "list": (200, b"[]"),
    "null": (200, b"null"),
    "number": (200, b"3"),
    "no schema": (200, b'{"guid": "x"}'),
    "no utf-8": (200, b'{"schema": "\xff"}'),
    "deep": (200, b"[" * 100_000),
    "schema is no text": (200, b'{"schema": {"type": "int"}, "id": "1"}'),
    "type is no text": (200, b'{"schema": "\\"int\\"", "schemaType": 3, "id": -1}'),
    "references are no list": (200, b'{"schema": "\\"int\\"", "references": {"a": 1}, "id": true}'),
    "a reference is no object": (200, b'{"schema": "\\"int\\"", "references": ["a"], "id": 4294967296}'),
    "a reference has no version": (200, b'{"schema": "\\"int\\"", "references": [{"name": "A", "subject": "a"}], "id": 1.5}'),
    "huge": (200, b'{"schema": "\\"int\\"", "id": 1, "x": "' + b"x" * module.MOST_BYTES + b'"}'),
    "no content": (204, b""),
    "moved": (301, b""),
    "a proxy's not found": (404, b"<html>404</html>"),
    "an unknown route": (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
    "not found in another form": (404, b'{"error_code": "40403"}'),
    "found and not found": (200, b'{"error_code": 40403}'),
    "forbidden": (403, b'{"error_code": 40301, "message": "no"}'),
    "a proxy's conflict": (409, b"<html>"),
    "unprocessable": (422, b"\xff"),
}


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


@pytest.fixture
def schemas(registry: SchemaRegistry) -> Iterator[Schemas]:
    made = Schemas(Registry(url=registry.url))
    yield made
    made.close()


@pytest.mark.parametrize("format_", [Format.AVRO, Format.JSON_SCHEMA])
@pytest.mark.parametrize("instead", INSTEAD.values(), ids=INSTEAD)
def test_rubbish_means_that_the_registry_is_away(
    registry: SchemaRegistry, schemas: Schemas, instead: tuple[int, bytes], format_: Format
) -> None:
    made = {Format.AVRO: (ROW, "AVRO", avro(ROW, {"n": 7})), Format.JSON_SCHEMA: ({"type": "object"}, "JSON", b'{"n": 7}')}
    schema, kind, body = made[format_]
    value = framed(registry.register("t-value", schema, kind), body)
    registry.instead = instead
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=format_), schemas)
    with pytest.raises(Unreachable, match=f"answers {instead[0]} to /schemas/ids/1"):
        decoder.decode([value], [[]])
    with pytest.raises(Unreachable, match=f"answers {instead[0]} to /subjects/o-value/versions"):
        make_encoder(SIGNATURE, StreamOutput(topic="o", format=format_), schemas)
    registry.instead = None
    assert decoder.decode([value], [[]]).tensors["n"].tolist() == [7]  # nothing of it is remembered
    assert len(make_encoder(SIGNATURE, StreamOutput(topic="o", format=format_), schemas).encode({"n": np.array([7])})) == 1


def test_only_the_registrys_own_word_makes_a_schema_unknown(registry: SchemaRegistry, schemas: Schemas) -> None:
    value = framed(registry.register("t-value", ROW), avro(ROW, {"n": 7}))
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO), schemas)
    decoded = decoder.decode([framed(99, b"\x0e"), value, framed(-5, b"\x0e")], [[]] * 3)
    assert decoded.tensors["n"].tolist() == [7]
    assert "knows no schema 99" in str(decoded.errors[0])
    assert "-5 is no schema's id" in str(decoded.errors[2])
    assert not any("-5" in call for call in registry.calls)
    calls = len(registry.calls)
    assert sorted(decoder.decode([framed(99, b"\x0e"), value], [[]] * 2).errors) == [0]
    assert len(registry.calls) == calls


def test_a_registry_that_looks_up_no_guid_is_told_apart_from_a_schema_that_it_does_not_know(
    registry: SchemaRegistry, schemas: Schemas
) -> None:
    number = registry.register("t-value", ROW)
    named = [("__value_schema_id", b"\x01" + uuid.UUID(registry.schemas[number]["guid"]).bytes)]
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO), schemas)
    registry.instead = INSTEAD["an unknown route"]
    with pytest.raises(Unreachable, match="names its schema by GUID") as held:
        decoder.decode([avro(ROW, {"n": 7})], [named])
    assert "use a registry that has /schemas/guids/" in held.value.remedy
    registry.instead = None
    assert decoder.decode([avro(ROW, {"n": 7})], [named]).tensors["n"].tolist() == [7]
    unknown = [("__value_schema_id", b"\x01" + uuid.uuid4().bytes)]
    assert "knows no schema" in str(decoder.decode([b"\x0e"], [unknown]).errors[0])


def test_a_schema_that_refers_to_what_is_gone_is_the_records_fault(registry: SchemaRegistry, schemas: Schemas) -> None:
    registry.register("a", {"type": "record", "name": "A", "fields": []})
    lost = registry.register("t", ROW, references=[{"name": "B", "subject": "b", "version": 1}])
    old = registry.register("t", ROW, references=[{"name": "A", "subject": "a", "version": 9}])
    good = registry.register("t", ROW)
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO), schemas)
    values = [framed(number, avro(ROW, {"n": 7})) for number in (lost, old, good)]
    decoded = decoder.decode(values, [[]] * 3)
    assert decoded.tensors["n"].tolist() == [7]
    assert "refers to version 1 of b, which the schema registry does not have" in str(decoded.errors[0])
    assert "version 9 of a" in str(decoded.errors[1])
    calls = len(registry.calls)
    assert sorted(decoder.decode(values, [[]] * 3).errors) == [0, 1]
    assert len(registry.calls) == calls


@pytest.mark.parametrize("instead", INSTEAD.values(), ids=INSTEAD)
def test_rubbish_for_a_reference_means_that_the_registry_is_away(
    registry: SchemaRegistry, schemas: Schemas, instead: tuple[int, bytes]
) -> None:
    registry.register("a/b?", ROW)
    number = registry.register(
        "t", '{"type": "array", "items": "Row"}', references=[{"name": "Row", "subject": "a/b?", "version": 1}]
    )
    registry.instead, registry.instead_of = instead, "/subjects/"
    with pytest.raises(Unreachable, match=f"answers {instead[0]} to /subjects/a%2Fb%3F/versions/1"):
        schemas.find(number)
    registry.instead = None
    assert orjson.loads(schemas.find(number).references["Row"]) == ROW


def test_references_go_in_circles_and_on_without_end(registry: SchemaRegistry, schemas: Schemas) -> None:
    circle = [{"name": "A", "subject": "a", "version": 1}, {"name": "B", "subject": "b", "version": 1}]
    registry.register("a", ROW, references=circle)
    registry.register("b", {**ROW, "name": "B"}, references=circle)
    assert list(schemas.find(registry.register("t", '"A"', references=circle)).references) == ["B", "A"]
    for i in range(module.MOST_REFERENCES + 1):
        below = [{"name": f"C{i + 1}", "subject": f"c{i + 1}", "version": 1}]
        registry.register(f"c{i}", {**ROW, "name": f"C{i}"}, references=below)
    endless = registry.register("t", '"C0"', references=[{"name": "C0", "subject": "c0", "version": 1}])
    decoder = make_decoder(SIGNATURE, StreamInput(topic="t", format=Format.AVRO), schemas)
    assert f"more than {module.MOST_REFERENCES} others" in str(decoder.decode([framed(endless, b"")], [[]]).errors[0])
    calls = len(registry.calls)
    assert list(decoder.decode([framed(endless, b"")] * 9, [[]] * 9).errors) == list(range(9))
    assert len(registry.calls) == calls


def test_a_refusal_to_register_is_told(registry: SchemaRegistry, schemas: Schemas) -> None:
    registry.instead = (409, b'{"error_code": 409, "message": "incompatible with an earlier schema"}')
    with pytest.raises(BadInput, match="refuses /subjects/o-value/versions: incompatible with an earlier schema"):
        make_encoder(SIGNATURE, StreamOutput(topic="o", format=Format.AVRO), schemas)


def test_an_answer_that_drips_is_left(registry: SchemaRegistry, schemas: Schemas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read is quick enough, as the client was made before; the whole is not."""
    number = registry.register("t", ROW)
    monkeypatch.setattr(module, "CALL_TIMEOUT_S", -1.0)
    with pytest.raises(Unreachable):
        schemas.find(number)
    monkeypatch.undo()
    assert schemas.find(number).kind == "AVRO"


@pytest.mark.parametrize("url", ["http://[::1", "http://" + "a" * 300, "http://", "http://\x01"])
def test_an_address_that_can_not_be_is_told(url: str) -> None:
    with pytest.raises(Unreachable, match=r"check spec\.registry\.url"):
        Schemas(Registry(url=url)).find(1)


def test_certificates_passwords_and_proxies_that_can_not_be_used_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(BadInput, match="no certificates"):
            Schemas(Registry(url="https://127.0.0.1:1", ca_file=str(tmp_path / name)))
    monkeypatch.setenv("SR_PASSWORD", "hush\udcff")
    with pytest.raises(BadInput, match="no UTF-8") as caught:
        Schemas(Registry(url="http://127.0.0.1:1", username="u", password_env="SR_PASSWORD"))  # noqa: S106  # a name
    assert caught.value.__suppress_context__
    monkeypatch.setenv("HTTP_PROXY", "ftp://user:hush@127.0.0.1")
    with pytest.raises(BadInput, match="a proxy that can't be used") as caught:
        Schemas(Registry(url="http://127.0.0.1:1"))
    assert "hush" not in f"{caught.value}{caught.value.__cause__!r}"


def test_what_is_not_found_is_said_with_the_registry(schemas: Schemas) -> None:
    for _ in range(2):
        with pytest.raises(NotFound, match="knows no schema 5") as caught:
            schemas.find(5)
        told: Any = caught.value
        assert told.where.startswith("http://127.0.0.1")
