"""The places of gateways: who has one, what a killed one leaves, and who may enter."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import Conflict, NoCapacity
from deployments.gateway.door import slots
from deployments.gateway.door.slots import check_folder, door_folder, take_slot, taken_slots


@pytest.fixture
def folder() -> Iterator[Path]:
    made = door_folder(uuid.uuid4().hex)
    yield made
    for file in made.iterdir():
        file.unlink()
    made.rmdir()


def test_each_gateway_has_a_place_of_its_own_and_one_too_many_has_none(folder: Path) -> None:
    taken = [take_slot(folder, 3) for _ in range(3)]
    assert [slot.number for slot in taken] == [1, 2, 3] == taken_slots(folder, 3)
    with pytest.raises(NoCapacity, match="all 3 places"):
        take_slot(folder, 3)
    taken[1].release()
    taken[1].release()
    assert taken_slots(folder, 3) == [1, 3]
    again = take_slot(folder, 3)
    assert again.number == 2
    for slot in (taken[0], again, taken[2]):
        slot.release()
    assert taken_slots(folder, 3) == []


def test_a_place_listens_where_haproxy_asks_and_nowhere_once_it_is_released(folder: Path) -> None:
    slot = take_slot(folder)
    for name in ("1.infer", "1.http"):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(folder / name))
    assert not slot.infer.getblocking()
    assert not slot.http.getblocking()
    assert slot.grpc_path == folder / "1.grpc"
    slot.release()
    assert {file.name for file in folder.iterdir()} == {"1.lock"}


def test_what_a_killed_gateway_left_is_taken_over(folder: Path) -> None:
    killed = (
        "import os, pathlib, sys; from deployments.gateway.door.slots import take_slot\n"
        "slot = take_slot(pathlib.Path(sys.argv[1])); slot.grpc_path.touch(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(folder)], check=False).returncode == -9
    assert {file.name for file in folder.iterdir()} == {"1.lock", "1.infer", "1.http", "1.grpc"}
    slot = take_slot(folder)
    assert slot.number == 1
    assert not slot.grpc_path.exists()
    slot.release()


def test_a_child_process_does_not_keep_the_place(folder: Path) -> None:
    slot = take_slot(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        slot.release()
        assert taken_slots(folder) == []
        child.communicate(b"\n")


def test_the_folder_is_this_users_alone_and_short(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(str(folder / "99.infer")) <= 107
    folder.chmod(0o755)
    with pytest.raises(Conflict, match="of this user alone"):
        check_folder(folder)
    folder.chmod(0o700)
    link = folder / "link"
    link.symlink_to(folder)
    with pytest.raises(Conflict):
        check_folder(link)


def test_another_users_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: os.stat(folder).st_uid + 1)
    with pytest.raises(Conflict, match="remove it, or set TMPDIR"):
        check_folder(folder)


def test_a_long_or_odd_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for odd in ("/" + 80 * "a", "/with space", '/with"quote'):
        monkeypatch.setattr("tempfile.gettempdir", lambda odd=odd: odd)
        assert slots.root() == Path("/tmp")  # noqa: S108 (not written to)
