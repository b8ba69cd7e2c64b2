"""Fetching a model from the hub: by the real worker and library, of a hub on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.errors import BadInput, HeadraceError, NotFound, TooLarge, Unreachable
from deployments.builder.sources.huggingface_models.fetch import refuse_large
from deployments.builder.sources.huggingface_models.resolve import resolve
from deployments.builder.spec import BuildSpec
from tests.support.fake_hub import COMMIT, GATED, fake_hub

SECRET = "hf_noneofyourbusiness"  # noqa: S105  no real one
CONFIG = b'{"architectures": ["BertModel"], "model_type": "bert"}'
FILES = {"config.json": CONFIG, "tokenizer.json": b"{}", "model.safetensors": b"weights", "1_Pooling/config.json": b"{}"}
OTHERS = {
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"code",
    "onnx/model.onnx": b"another form",
    "1_Pooling/code.py": b"code",
}
REPOS = {"owner/good": FILES | OTHERS, GATED: FILES, "owner/pickled": {"config.json": CONFIG, "pytorch_model.bin": b"a pickle"}}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    with fake_hub(REPOS) as (address, requests):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", SECRET)
        yield requests


@pytest.fixture
def fetched(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, str]]]:
    """The model's folder in the build, and its provenance."""

    def fetch(repo: str, place: str = "work", **more: str) -> tuple[Path, dict[str, str]]:
        spec = BuildSpec.model_validate({"source": {"huggingface": {"repo": repo, **more}}})
        found, provenance = resolve(spec, tmp_path, tmp_path / place, tmp_path / "log", lambda _: None)
        return Path(found.source.file), provenance

    return fetch


def test_a_model_s_own_files_come_once_and_no_other(
    tmp_path: Path, asked: list[str], fetched: Callable[..., tuple[Path, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, provenance = fetched("owner/good")
    assert provenance == {"repo": "owner/good", "revision": "main", "commit": COMMIT}
    assert folder.name == "good"
    assert {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()} == FILES
    brought = [one for one in asked if "/resolve/" in one]
    assert all(f"/resolve/{COMMIT}/" in one for one in brought)
    assert not any(name in one for one in brought for name in OTHERS)
    assert any(one.endswith(f"Bearer {SECRET}") for one in asked)

    asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again, provenance = fetched("owner/good", "again")
    assert (again / "model.safetensors").read_bytes() == b"weights"
    assert provenance["commit"] == COMMIT
    assert asked == []
    with pytest.raises(Unreachable, match="owner/pickled@main: is not whole in the cache, and HF_HUB_OFFLINE"):
        fetched("owner/pickled", "third")
    written = [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert written == []


@pytest.mark.parametrize(
    ("repo", "revision", "kind", "says"),
    [
        ("owner/good", "v9", NotFound, "owner/good@v9: has no such revision"),
        (GATED, "main", BadInput, "is gated: its owner asks who takes it .*accept its terms on its page, and set HF_TOKEN"),
        ("owner/private", "main", NotFound, "no such repo, or a private one .*HF_TOKEN"),
        ("owner/pickled", "main", BadInput, "has its weights as pytorch_model.bin alone, which may run code"),
        ("owner/broken", "main", Unreachable, "the hub does not answer: .*HF_HUB_OFFLINE=1"),
    ],
)
def test_what_the_hub_does_not_give_is_said(
    asked: list[str],
    fetched: Callable[..., tuple[Path, dict[str, str]]],
    repo: str,
    revision: str,
    kind: type[HeadraceError],
    says: str,
) -> None:
    with pytest.raises(kind, match=says) as caught:
        fetched(repo, revision=revision)
    assert SECRET not in str(caught.value)
    assert asked != []


def test_no_hub_at_all_is_unreachable(
    fetched: Callable[..., tuple[Path, dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub({}) as (address, _):
        pass
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with pytest.raises(Unreachable, match="the hub does not answer"):
        fetched("owner/good")


def test_more_than_a_version_can_hold_is_not_fetched() -> None:
    refuse_large(2_000_000_000, "owner/good@main")
    with pytest.raises(TooLarge, match=r"holds 2\.5 GB, more than the 2 GB"):
        refuse_large(2_500_000_000, "owner/huge@main")
