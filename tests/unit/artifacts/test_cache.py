"""The copies of remote artifacts on a node: what stays, what goes, and what is fetched again."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from cluster.errors import BadArtifact, BadInput, NoCapacity, Unreachable
from deployments.artifacts.cache import (
    FREE_VARIABLE,
    MAX_VARIABLE,
    ArtifactCache,
    CacheSettings,
    Copy,
    superfluous,
)
from deployments.artifacts.fetch import localize
from deployments.artifacts.locks import MOST_HELD, locked
from deployments.artifacts.manifest import verify
from tests.support.models import mlp_artifact

Usage = namedtuple("Usage", "total used free")
USER = """
import sys, time
from pathlib import Path
from deployments.artifacts.cache import ArtifactCache, CacheSettings
print(ArtifactCache(CacheSettings(Path(sys.argv[1]))).hold(sys.argv[2]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow's own file system behind a name that is not local stands for S3 and the like."""

    def remote(uri: str) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), uri.removeprefix("far://")

    monkeypatch.setattr("deployments.artifacts.fetch.remote", remote)


def filled(bytes_each: int) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        folder.joinpath("model.onnx").write_bytes(b"x" * bytes_each)

    return fill


def test_what_goes_is_the_least_recently_used_and_never_what_is_in_use() -> None:
    settings = CacheSettings(Path("cache"), max_bytes=100, free_bytes=50)
    old, older, used = Copy(Path("old"), 40, 3, False), Copy(Path("older"), 30, 2, False), Copy(Path("used"), 30, 1, True)
    assert superfluous([old, older, used], 0, 1000, settings) == []  # just within the bound
    assert superfluous([old, older, used], 1, 1000, settings) == [older]
    assert superfluous([old, older, used], 31, 1000, settings) == [older, old]
    assert superfluous([old, older, used], 500, 1000, settings) == [older, old]  # all that may go, and it is fetched all the same
    assert superfluous([old, older, used], 0, 50, settings) == []
    assert superfluous([old, older, used], 0, 49, settings) == [older]  # the floor of free space
    assert superfluous([old, older, used], 0, 15, settings) == [older, old]


def test_settings_have_defaults_and_are_read_from_the_nodes_environment() -> None:
    assert CacheSettings.from_environment({}) == CacheSettings(Path.home() / ".cache/headrace/artifacts", 20 << 30, 2 << 30)
    told = {"HEADRACE_ARTIFACT_CACHE": "/var/cache/hr", MAX_VARIABLE: "5", FREE_VARIABLE: "0"}
    assert CacheSettings.from_environment(told) == CacheSettings(Path("/var/cache/hr"), 5, 0)
    assert CacheSettings.from_environment({MAX_VARIABLE: ""}).max_bytes == 20 << 30
    with pytest.raises(BadInput, match=MAX_VARIABLE):
        CacheSettings.from_environment({MAX_VARIABLE: "20GB"})


def test_the_cache_keeps_to_its_bound_and_to_what_is_used(tmp_path: Path) -> None:
    settings = CacheSettings(tmp_path / "cache", max_bytes=250, free_bytes=0)
    copies = ArtifactCache(settings)
    digests = [f"{at:064x}" for at in range(4)]
    # Another process uses the first, so it stays though it is the oldest.
    copies.add(digests[0], 100, filled(100))
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(settings.folder), digests[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline().strip() == str(settings.folder / digests[0])
        for at in range(MOST_HELD):  # what this process asked for long ago, it holds no more
            ArtifactCache(CacheSettings(tmp_path / "other", free_bytes=0)).add(f"{at:064x}", 1, filled(1))
        copies.add(digests[1], 100, filled(100))
        for at in range(MOST_HELD):
            ArtifactCache(CacheSettings(tmp_path / "other", free_bytes=0)).hold(f"{at:064x}")
        copies.add(digests[2], 100, filled(100))
        assert sorted(path.name for path in settings.folder.iterdir()) == [digests[0], digests[2]]
        user.communicate("")
    copies.add(digests[3], 100, filled(100))  # the third is in use by this process, and the first by none now
    assert sorted(path.name for path in settings.folder.iterdir()) == [digests[2], digests[3]]
    assert stat.S_IMODE(settings.folder.stat().st_mode) == 0o700


def test_a_copy_that_a_process_begins_to_use_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CacheSettings(tmp_path / "cache", max_bytes=100, free_bytes=0)
    first, second = f"{1:064x}", f"{2:064x}"
    (settings.folder / first).mkdir(parents=True)
    (settings.folder / first / "model.onnx").write_bytes(b"x" * 100)
    locks: list[int] = []

    def chosen(*asked: Any) -> list[Copy]:
        gone = superfluous(*asked)
        locks.extend(locked(copy.path, fcntl.LOCK_SH) for copy in gone)
        return gone

    monkeypatch.setattr("deployments.artifacts.cache.superfluous", chosen)
    ArtifactCache(settings).add(second, 100, filled(100))
    assert len(locks) == 1
    os.close(locks[0])
    assert sorted(path.name for path in settings.folder.iterdir()) == [first, second]


def test_copies_go_while_little_is_free_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = ArtifactCache(CacheSettings(tmp_path / "cache", max_bytes=1 << 30, free_bytes=500))
    first, second = f"{1:064x}", f"{2:064x}"
    copies.add(first, 100, filled(100))
    for at in range(MOST_HELD):
        ArtifactCache(CacheSettings(tmp_path / "other", free_bytes=0)).add(f"{at:064x}", 1, filled(1))
    monkeypatch.setattr("deployments.artifacts.cache.shutil.disk_usage", lambda _: Usage(1000, 450, 550))
    copies.add(second, 100, filled(100))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [second]


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    uri, digest, manifest = mlp_artifact(tmp_path / "far")
    cache = tmp_path / "cache"
    copy = localize(f"far://{uri}", digest, cache=cache)
    with (copy / "model.onnx").open("r+b") as file:
        file.write(b"damage")
    assert localize(f"far://{uri}", digest, cache=cache) == copy
    assert verify(copy, digest) == manifest
    (copy / "samples.npz").unlink()
    assert verify(localize(f"far://{uri}", digest, cache=cache), digest) == manifest
    assert [path.name for path in cache.iterdir()] == [digest]


def test_where_the_artifact_itself_is_damaged_nothing_is_kept(tmp_path: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path / "far")
    with (Path(uri) / "model.onnx").open("r+b") as file:
        file.write(b"damage")
    cache = tmp_path / "cache"
    with pytest.raises(BadArtifact, match=r"model\.onnx is damaged"):
        localize(f"far://{uri}", digest, cache=cache)
    assert list(cache.iterdir()) == []
    with pytest.raises(Unreachable, match="nothing lies there"):  # another bucket, or one that is to be restored
        localize(f"far://{tmp_path}/nowhere", digest, cache=cache)
    (Path(uri) / "manifest.json").unlink()
    with pytest.raises(BadArtifact, match="no manifest"):
        localize(f"far://{uri}", digest, cache=cache)


def test_another_process_may_have_brought_a_whole_one(tmp_path: Path) -> None:
    copies = ArtifactCache(CacheSettings(tmp_path / "cache", free_bytes=0))
    digest = f"{1:064x}"
    damaged = copies.add(digest, 1, filled(1))
    shutil.rmtree(damaged)  # as another process would, which found the damage first
    damaged.mkdir()
    (damaged / "model.onnx").write_bytes(b"whole")
    copies.drop(damaged)
    assert (damaged / "model.onnx").read_bytes() == b"whole"
    assert copies.hold(digest) == damaged


def test_what_killed_processes_left_goes_and_what_is_being_fetched_stays(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    copies = ArtifactCache(CacheSettings(folder, free_bytes=0))
    first, second = f"{1:064x}", f"{2:064x}"
    (folder / ".staging-killed").mkdir(parents=True)
    (folder / ".gone-killed" / first).mkdir(parents=True)

    def fetching(copied: Path) -> None:
        copies.add(second, 1, filled(1))  # makes room, as another process may while this one fetches
        copied.joinpath("model.onnx").write_bytes(b"x")

    copies.add(first, 1, fetching)
    assert sorted(path.name for path in folder.iterdir()) == [first, second]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    copies = ArtifactCache(CacheSettings(tmp_path / "cache", free_bytes=0))
    with pytest.raises(NoCapacity, match="HEADRACE_ARTIFACT_CACHE"):
        copies.add(f"{1:064x}", 1, full)
    assert list((tmp_path / "cache").iterdir()) == []
