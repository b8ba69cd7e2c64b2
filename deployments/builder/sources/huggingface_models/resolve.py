"""`source: huggingface` as a folder of its own: which commit is meant is asked once, at import, and kept with what is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.errors import NotFound
from deployments.builder.sources.huggingface_models.folder import kept, read_text_model, shards_of
from deployments.builder.spec import BuildSpec, HuggingfaceSource, ModelSource
from deployments.builder.worker import run_worker

# The hub's library reports its use unless it is told not to.
ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def resolve(
    spec: BuildSpec, base: Path, work: Path, log: Path, progress: Callable[[str], None]
) -> tuple[BuildSpec, dict[str, Any]]:
    """Lays the files of the model that `spec.source.huggingface` means into `work`, and nothing beside them. Returns the section
    with that folder, and where it came from; with another source the section itself, and nothing.

    Raises NotFound, Unreachable, TooLarge or BadInput.
    """
    asked = spec.source.huggingface
    if asked is None:
        return spec, {}
    provenance: dict[str, Any] = {}
    if asked.repo is None:
        folder = (base / str(asked.path)).resolve()
        if not folder.is_dir():
            raise NotFound("no such folder", where=str(folder), remedy="correct source.huggingface.path")
    else:
        folder, provenance = _fetched(asked, log, progress)
    read_text_model(folder, asked)
    staged = work / "huggingface" / (asked.repo.rpartition("/")[2] if asked.repo else folder.name)
    stage(folder, staged)
    section = asked.model_copy(update={"path": str(staged), "repo": None})
    return spec.model_copy(update={"source": ModelSource.model_construct(huggingface=section)}), provenance


def stage(folder: Path, target: Path) -> None:
    """Links the files that belong to the model, so that whatever reads `target` finds no other. Raises BadInput."""
    shards = shards_of(folder)
    target.mkdir(parents=True)
    found = [file for file in (*folder.iterdir(), *folder.glob("*_Pooling/*")) if file.is_file()]
    for name in kept(file.relative_to(folder).as_posix() for file in found):
        if not name.endswith(".safetensors") or name in shards:
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).symlink_to((folder / name).resolve())


def _fetched(asked: HuggingfaceSource, log: Path, progress: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    progress(f"ask the hub for {asked.repo} at {asked.revision}")
    told = run_worker(
        "sources.huggingface_models.fetch",
        {"repo": asked.repo, "revision": asked.revision},
        what=f"fetching {asked.repo}",
        log=log,
        environment=ENVIRONMENT,
        extra="huggingface",
    )
    progress(f"{asked.repo} at {asked.revision} is commit {told['commit']}")
    return Path(told["folder"]), {"repo": asked.repo, "revision": asked.revision, "commit": told["commit"]}
