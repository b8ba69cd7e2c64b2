"""Ray's logs keep to a bound, oldest first, and what is written to stays."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as s

from headrace.local.home import read_settings
from headrace.local.options import UpOptions
from headrace.local.ray.logs import QUIET_S, LogFile, prune, superfluous
from headrace.local.repairs.supervise import Supervisor

NOW_S = 1e9
FILES = s.lists(s.builds(LogFile, s.just(Path("a")), s.integers(0, 100), s.floats(NOW_S - 5 * QUIET_S, NOW_S)), max_size=8).map(
    tuple
)


@given(FILES, s.integers(0, 300))
def test_the_bound_is_kept_by_the_oldest_that_are_quiet(files: tuple[LogFile, ...], most: int) -> None:
    gone = superfluous(files, most, NOW_S)
    left = [file for file in files if file not in gone]
    assert all(NOW_S - file.written_s >= QUIET_S for file in gone)
    assert sum(file.size for file in left) <= most or all(NOW_S - file.written_s < QUIET_S or not file.size for file in left)
    if gone:  # and no more than it takes
        assert sum(file.size for file in files) - sum(file.size for file in gone[:-1]) > most


def test_old_files_go_and_what_is_no_folder_is_none(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "serve").mkdir(parents=True)
    old, new = logs / "serve" / "replica.log", logs / "raylet.out"
    old.write_bytes(b"x" * 100)
    new.write_bytes(b"x" * 100)
    os.utime(old, (time.time() - 2 * QUIET_S,) * 2)
    assert prune(logs, 150) == 1
    assert (old.exists(), new.exists()) == (False, True)
    assert prune(tmp_path / "nowhere", 0) == 0


def test_logs_that_cant_be_deleted_end_no_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(_: Path) -> int:
        raise OSError(30, "Read-only file system")

    said: list[str] = []
    monkeypatch.setattr("headrace.local.repairs.supervise.prune", read_only)
    Supervisor(UpOptions(), read_settings({"HEADRACE_HOME": str(tmp_path)}), said.append)._prune()
    assert said == ["Ray's old logs can't be deleted: [Errno 30] Read-only file system"]


def test_what_is_no_text_in_the_words_of_an_up_ends_no_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, said = tmp_path / "python", list[str]()
    program.write_text("#!/bin/sh\nprintf '\\377 odd\\n'\n", encoding="ascii")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    assert Supervisor(UpOptions(), read_settings({"HEADRACE_HOME": str(tmp_path)}), said.append)._up_once() is None
    assert said == ["\ufffd odd"]
