"""Worker: asks the hub which commit a revision is, and brings the files that make up a model into the hub's own cache.

It needs the network, and so has no fence; it reads none of the files. A token is the library's own business: HF_TOKEN is read
there, and written nowhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2  # what huggingface_hub asks by, and whose errors it lets through
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cluster.errors import BadInput, HeadraceError, NotFound, TooLarge, Unreachable
from deployments.builder.sources.huggingface_models.folder import KEPT, LARGEST_BYTES, kept, refuse_weights
from deployments.builder.worker import serve

TOKEN = "set HF_TOKEN to a token that may read it"  # noqa: S105  words, no secret
OFFLINE = "set HF_HUB_OFFLINE=1 to take what is in the cache"


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: repo, revision. Answers with the model's folder in the cache, and its commit.

    With HF_HUB_OFFLINE=1 nobody is asked: the revision is the one that was brought last."""
    repo, revision = job["repo"], job["revision"]
    where = f"{repo}@{revision}"
    try:
        if is_offline_mode():
            folder = snapshot_download(repo, revision=revision, allow_patterns=list(KEPT), local_files_only=True)
            return {"folder": folder, "commit": Path(folder).name}
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        refuse_weights(sizes, where)
        refuse_large(sum(sizes[name] for name in kept(sizes)), where)
        folder = snapshot_download(repo, revision=revision, allow_patterns=list(KEPT))
    except (httpx2.HTTPError, OSError, HFValidationError) as error:
        raise explained(error, where) from error
    if Path(folder).name != info.sha:
        raise Unreachable("the revision moved while it was brought", where=where, remedy="build again, or name a commit")
    return {"folder": folder, "commit": info.sha}


def refuse_large(size: int, where: str) -> None:
    """Raises TooLarge above what a version can hold."""
    if size > LARGEST_BYTES:
        raise TooLarge(
            f"holds {size / 1e9:.1f} GB, more than the 2 GB that an ONNX file can",
            where=where,
            remedy="take a smaller model of its kind",
        )


def explained(error: Exception, where: str) -> HeadraceError:
    """What the hub has against it, as an error of our tree."""
    if isinstance(error, GatedRepoError):
        return BadInput("is gated: its owner asks who takes it", where=where, remedy=f"accept its terms on its page, and {TOKEN}")
    if isinstance(error, RevisionNotFoundError):
        return NotFound("has no such revision", where=where, remedy="name a branch, tag or commit of it")
    if isinstance(error, RepositoryNotFoundError):
        return NotFound("no such repo, or a private one", where=where, remedy=f"check source.huggingface.repo; or {TOKEN}")
    if isinstance(error, LocalEntryNotFoundError) and is_offline_mode():
        return Unreachable(
            "is not whole in the cache, and HF_HUB_OFFLINE lets nobody be asked",
            where=where,
            remedy="unset HF_HUB_OFFLINE once, or name a folder: path",
        )
    if isinstance(error, HFValidationError):
        return BadInput(f"is no name of a repo: {_first(error)}", where=where, remedy="use owner/name")
    if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
        return BadInput(f"the hub refuses: {_first(error)}", where=where, remedy=f"check the repo and the revision; or {TOKEN}")
    if isinstance(error, httpx2.HTTPError | LocalEntryNotFoundError):
        return Unreachable(f"the hub does not answer: {_first(error)}", where=where, remedy=f"try again later, or {OFFLINE}")
    return BadInput(f"can't be brought: {_first(error)}", where=where, remedy="see that the cache (HF_HOME) can be written")


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


if __name__ == "__main__":
    serve(step)
