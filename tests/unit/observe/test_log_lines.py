"""What a line of a log says, in either form, and how often."""

from __future__ import annotations

import json
import logging
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import BadInput
from deployments.observe.logs.left_out import MOST_A_MINUTE, LeftOut
from deployments.observe.logs.set_up import PACKAGES, SERVE_LOGGER, log_to_stderr, log_with_serve
from deployments.observe.logs.settings import LogForm, LogLevel, LogSettings, log_settings
from deployments.observe.traces.span import Span
from headrace.local.logs.lines import fields_of, in_words

log = logging.getLogger("deployments.something")


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (*PACKAGES, SERVE_LOGGER)]
    were = [(list(one.handlers), one.level, one.propagate) for one in loggers]
    yield
    for one, (handlers, level, propagate) in zip(loggers, were, strict=True):
        one.handlers, one.level, one.propagate = handlers, level, propagate
        one.setLevel(level)


def test_settings_come_from_the_environment() -> None:
    assert log_settings({}) == LogSettings(LogForm.TEXT, LogLevel.WARNING)
    told = LogSettings(LogForm.JSON, LogLevel.DEBUG)
    assert log_settings(told.variables) == told
    assert log_settings({"HEADRACE_LOG_LEVEL": "INFO"}).level.number == logging.INFO
    with pytest.raises(BadInput, match="one of text, json"):
        log_settings({"HEADRACE_LOG_FORM": "xml"})


def test_a_json_line_says_whose_it_is_and_is_read_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_LOG_FORM", "json")
    log_to_stderr(stream="scores", model="digits")
    with Span("root", 0x4BF92F3577B34DA6A3CE929D0E0E4736, attributes={"headrace.version": 3, "headrace.rows": 5}):
        log.warning("it took %d s", 7, extra={"request_id": "r1", "password": "secret"})
    log.info("not at this level")
    try:
        raise OSError("bad\nvalue")
    except OSError:
        log.exception("it failed")
    first, second = capsys.readouterr().err.splitlines()
    fields = json.loads(first)
    assert fields.pop("time").endswith("Z")
    assert len(fields.pop("span_id")) == 16
    assert fields == {
        "level": "warning",
        "logger": "deployments.something",
        "message": "it took 7 s",
        "stream": "scores",
        "model": "digits",
        "version": 3,
        "request_id": "r1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    assert fields_of(first) is not None
    span_id = json.loads(first)["span_id"]
    whose = "stream=scores model=digits version=3 trace_id=4bf92f3577b34da6a3ce929d0e0e4736"
    told = f"it took 7 s {whose} span_id={span_id} request_id=r1"
    assert in_words(first).endswith(f"Z WARNING deployments.something: {told}")
    words = in_words(second)
    assert "ERROR deployments.something: it failed" in words
    assert words.endswith("OSError: bad\nvalue")
    for other in ("a line", '{"broken', "{1}", "[]", '{"of": "somebody else"}'):
        assert (fields_of(other), in_words(other)) == (None, other)


def test_lines_for_eyes_are_the_usual(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(model="digits", version=3)
    log.error("it failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" ERROR deployments.something: it failed model=digits version=3")


def test_a_replica_s_lines_go_into_serve_s_own_log_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_LOG_FORM", "json")
    log_with_serve(model="digits", version=3)
    file = logging.handlers.RotatingFileHandler(tmp_path / "replica.log")
    serve = logging.getLogger(SERVE_LOGGER)
    serve.handlers = [logging.handlers.MemoryHandler(1000, target=file)]
    try:
        log.warning("once")
        serve.error("of Serve's own")
        lines = [json.loads(line) for line in (tmp_path / "replica.log").read_text().splitlines()]
    finally:
        file.close()
    assert [(one["message"], one.get("version")) for one in lines] == [("once", 3), ("of Serve's own", 3)]


def test_what_is_told_again_and_again_is_counted() -> None:
    now_s = 1000.0
    left_out = LeftOut(lambda: now_s)

    def passed(text: str, times: int) -> int:
        return sum(left_out.passes(logging.LogRecord("l", logging.WARNING, "", 0, text, (), None)) for _ in range(times))

    assert passed("row %d failed", 500) == MOST_A_MINUTE
    assert passed("something else", 1) == 1  # at once, whatever else there is
    assert left_out.due() == []
    now_s += 61
    (summary,) = left_out.due()
    assert summary.getMessage() == f"{500 - MOST_A_MINUTE} more like this were left out in a minute: row %d failed"
    assert summary.levelno == logging.WARNING
    assert left_out.due() == []
    assert passed("row %d failed", 500) == MOST_A_MINUTE


def test_many_kinds_take_no_more_room_than_some(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    left_out = LeftOut()
    for number in range(3000):
        assert left_out.passes(logging.LogRecord("l", logging.WARNING, "", 0, f"kind {number}", (), None))
    assert len(left_out._windows) <= 1000
    monkeypatch.setenv("HEADRACE_LOG_FORM", "xml")
    log_to_stderr()  # a process starts all the same
    log.warning("as usual")
    assert capsys.readouterr().err.splitlines()[-1].endswith("WARNING deployments.something: as usual")
