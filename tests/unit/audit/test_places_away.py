"""Places of checkpoints that are full or away, by the adapters that are used, and a store whose disk is full under the audit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.watch.whole_audit import TellCheckpoints
from cluster.errors import NoCapacity, Unreachable
from cluster.store.sql import SqlStore
from cluster.watch.catalogue import CHECKPOINTS_AWAY
from consumers.stream.kafka.kafka_python import one_record
from deployments.control.table_watch import UsePush
from deployments.observe.use_log import UseLog
from headrace.audit.places import place_of
from headrace.audit.sending import CheckpointSender
from headrace.local.ports import free_port
from tests.support.brain import Brain
from tests.support.small_disk import mounted
from tests.unit.audit.test_audit_proof import Source
from tests.unit.audit.test_uses import Minute, recorded


def sender(source: Source, *places: str) -> CheckpointSender:
    def tell(told: TellCheckpoints) -> dict[str, Any]:
        return source.brain.call("checkpoint.told", **told.model_dump())

    return CheckpointSender(source.audit_checkpoint, places, tell)


def away(brain: Brain) -> float:
    return {name: value for name, _, value in brain.call("metrics.list")["values"]}[CHECKPOINTS_AWAY.name]


def fill(file: Path) -> None:
    """Takes all room of its disk."""
    with file.open("wb", buffering=0) as opened:
        while shutil.disk_usage(file.parent).free:
            with contextlib.suppress(OSError):
                opened.write(os.urandom(4096))


@pytest.fixture
def source() -> Source:
    return Source()


def test_a_full_disk_leaves_no_half_checkpoint_and_what_it_missed_is_told(source: Source, tmp_path: Path) -> None:
    with mounted(tmp_path, "64k") as disk:
        sends = sender(source, str(disk), str(tmp_path / "elsewhere"))
        filled = disk / "filled"
        fill(filled)
        with pytest.raises(NoCapacity, match="the disk is full"):
            place_of(str(disk))(source.audit_checkpoint().note, source.size)
        assert [sends.send(), sends.send()] == [1, 1]  # the other one has it
        assert away(source.brain) == 1
        (missed,) = recorded(source.brain, "checkpoint not kept")
        assert (missed["detail"]["place"], missed["detail"]["reason"]) == (str(disk), "NoCapacity")
        filled.unlink()
        source.brain.revive()
        assert sends.send() == 2
        assert sender(source, str(disk), str(tmp_path / "elsewhere")).send() == 2  # what is there now is whole
        (kept,) = recorded(source.brain, "checkpoint kept again")
        assert (kept["detail"]["place"], away(source.brain)) == (str(disk), 0)


@pytest.mark.parametrize(
    "place",
    [
        "kafka://127.0.0.1:{port}/audit",
        # What AWS's client tries again takes ten seconds.
        pytest.param(
            "s3://me:secret@locked/audit?scheme=http&endpoint_override=127.0.0.1:{port}&region=none", marks=pytest.mark.proof
        ),
    ],
)
def test_a_broker_and_a_bucket_that_are_away_are_told_without_their_secrets(
    source: Source, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(one_record, "WAIT_S", 0.3)
    there = place.format(port=free_port())
    with pytest.raises(Unreachable) as failed:
        place_of(there)(source.audit_checkpoint().note, source.size)
    assert sender(source, there).send() == 0
    (missed,) = recorded(source.brain, "checkpoint not kept")
    assert missed["detail"]["reason"] == "Unreachable"
    assert "secret" not in f"{failed.value} {caplog.text} {missed}"


def test_what_a_library_raises_at_one_place_is_told_and_keeps_none_from_the_others(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(note: str, size: int) -> str:
        raise RuntimeError(f"{size} of {note}")

    sends = sender(source, "here", str(tmp_path))
    sends._places["here"] = mistaken
    assert sends.send() == 1
    (missed,) = recorded(source.brain, "checkpoint not kept")
    assert (missed["detail"]["place"], missed["detail"]["reason"]) == ("here", "RuntimeError")
    assert "a checkpoint of the audit is not kept at here" in caplog.text


def test_a_place_that_is_none_any_more_is_not_missed(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert sender(source, str(tmp_path / "file" / "in")).send() == 0
    assert away(source.brain) == 1
    assert sender(source, str(tmp_path / "other")).send() == 1
    assert away(source.brain) == 0


def test_a_disk_that_fills_under_the_audit_stops_commands_and_no_uses(tmp_path: Path) -> None:
    async def uses(brain: Brain, clock: Minute) -> None:
        log = UseLog("s1", clock)
        log.stays("gateway 7")
        push = UsePush(_Direct(brain), log)
        assert await push.flush()
        fill(filled)
        for _ in range(3):
            log.add("key team", "digits", "1", "http", "ok", 4)
            clock.now_s += 60
            brain.tick()
            assert not await push.flush()
            with pytest.raises(Unreachable, match=r"the store's disk is full: nothing can be recorded in the audit"):
                brain.call("key.create", name="k", id="a" * 10, digest="0" * 64)
        brain.tick(20, each_s=4)  # it is not heard of meanwhile
        assert brain.controller.table.routes["digits"].stable == 1  # what serves goes on
        filled.unlink()
        brain.tick(2)
        assert await push.flush()
        clock.now_s += 60
        assert await push.flush()

    with mounted(tmp_path, "1m") as disk:
        filled = disk / "filled"
        store = SqlStore(f"sqlite:///{disk / 'store.db'}")
        brain = Brain(store)
        brain.serve_first()
        asyncio.run(uses(brain, Minute()))
        assert brain.store.load().keys == {}
        assert sum(one["detail"]["rows"] for one in recorded(brain, "used")) == 12
        events = [one["event"] for one in recorded(brain, "audit gap", "audit gap closed", "command refused")]
        assert events[:2] == ["audit gap", "audit gap closed"]
        store.close()


class _Direct:
    """A control plane in this process."""

    def __init__(self, brain: Brain) -> None:
        self._brain = brain

    async def push(self, told: Any) -> None:
        self._brain.controller.push(told)
