"""The insides of the Kafka clients that we use: all are listed, all are there, and one that is not is told or done without."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import consumers.stream.kafka
from cluster.errors import BadInput
from consumers.stream.kafka.kafka_python import names
from consumers.stream.kafka.kafka_python.logins import _WithoutLogins
from consumers.stream.kafka.kafka_python.names import Use, expect, has, missing

FOLDER = Path(consumers.stream.kafka.__file__).parent
# Their classes stand in for the client's own, so they name what they build on themselves.
STAND_INS = ("kafka_python/rows.py", "kafka_python/wire.py")
LISTED = {name for of_use in names.NAMES.values() for listed in of_use.values() for name in listed}


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client that lacks a name for each use."""
    without = {use: {**listed, "kafka.KafkaConsumer": ("_gone",)} for use, listed in names.NAMES.items()}
    monkeypatch.setattr(names, "NAMES", without)
    missing.cache_clear()
    has.cache_clear()
    yield
    missing.cache_clear()
    has.cache_clear()


@pytest.mark.parametrize("use", Use)
def test_the_client_that_is_installed_has_all_that_is_listed(use: Use) -> None:
    assert names.NAMES[use]
    assert missing(use) == ()
    assert has(use)
    expect(use)


@pytest.mark.parametrize("use", [use for use in Use if not use.without])
def test_what_can_not_be_done_without_is_refused_with_what_to_install(use: Use, lacking: None) -> None:
    with pytest.raises(BadInput, match=r"lacks kafka\.KafkaConsumer\._gone") as refused:
        expect(use)
    assert use.purpose in refused.value.what
    assert names.VERSIONS in refused.value.remedy


@pytest.mark.parametrize("use", [use for use in Use if use.without])
def test_what_can_be_done_otherwise_is_and_that_is_said_once(use: Use, lacking: None, caplog: pytest.LogCaptureFixture) -> None:
    assert not has(use)
    assert not has(use)
    (told,) = caplog.messages
    assert use.without in told


def test_a_class_that_has_moved_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = {"kafka.net.elsewhere.Transport": ("read",), "kafka.KafkaProducer.Inner": ()}
    monkeypatch.setattr(names, "NAMES", {Use.WIRE: moved})
    missing.cache_clear()
    assert missing(Use.WIRE) == ("kafka.net.elsewhere.Transport", "kafka.KafkaProducer.Inner")
    missing.cache_clear()


def test_without_knowing_what_a_login_looks_like_no_request_is_logged(lacking: None) -> None:
    hidden = _WithoutLogins()
    assert not hidden.filter(logging.LogRecord("kafka.net.connection", logging.DEBUG, "", 0, "%s", ("request",), None))
    assert hidden.filter(logging.LogRecord("kafka.net.connection", logging.DEBUG, "", 0, "connected", None, None))


def looks_inside(path: Path) -> set[str]:
    """The private names of other objects that a module uses, and those of its classes' bases that it does not set itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    private = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    private = [node for node in private if not node.attr.startswith("__")]
    others = {node.attr for node in private if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))}
    own = {node.attr for node in private if node.attr not in others}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    set_here = {node.attr for node in private if isinstance(node.ctx, ast.Store)}
    return others | (own - defined - set_here)


def test_only_one_module_looks_inside_and_all_that_it_uses_is_listed() -> None:
    modules = {path.relative_to(FOLDER).as_posix(): looks_inside(path) for path in FOLDER.rglob("*.py")}
    used = modules.pop("kafka_python/inside.py") | {name for module in STAND_INS for name in modules.pop(module)}
    assert {module: found for module, found in modules.items() if found} == {}
    assert used <= LISTED
