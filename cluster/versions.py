"""A model's versions: immutable, numbered artifacts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from cluster.errors import BadInput
from cluster.signature import Signature

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
# As other servers take them, `simple_string` or `Churn.v2`. The name of its app is this as it is, which two of them never share.
MODEL_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
# What explains a model is asked by the model's name and this.
EXPLAINS = ".explain"
# With these a version's app would be called like a stream's, say `stream--v1`, or like the gateway's.
TAKEN = frozenset({"stream", "batch", "gateway"})


def check_name(name: str, *, what: str) -> str:
    """Returns `name` where it may name a model, stream or batch; raises BadInput elsewhere."""
    if what == "model" and name in TAKEN:
        raise BadInput(f"{name!r} can't name a model: headrace calls its own apps so", where="name", remedy=f"say {name}-model")
    if what == "model" and name.endswith(EXPLAINS):
        raise BadInput(
            f"{name!r} can't name a model: {EXPLAINS} asks for explanations", where="name", remedy="give it another ending"
        )
    if not re.fullmatch(MODEL_PATTERN if what == "model" else NAME_PATTERN, name) or "--" in name:
        letters = "letters, digits, underscores, dots" if what == "model" else "lower-case letters, digits"
        raise BadInput(
            f"{name!r} can't name a {what}",
            where="name",
            remedy=f"use {letters} and single dashes, 63 characters at most, a letter or digit first and last",
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class VersionId:
    """Names one version, e.g. `digits` 3."""

    model: str
    number: int

    @property
    def app(self) -> str:
        """The name of the Serve app that runs it, e.g. `digits--v3`."""
        return f"{self.model}--v{self.number}"

    @classmethod
    def of_app(cls, app: str) -> Self | None:
        """Whose app is named so; None where the name is not that of a version's."""
        model, _, number = app.rpartition("--v")
        return cls(model, int(number)) if model and number.isdecimal() else None

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"


@dataclass(frozen=True, slots=True)
class BuiltConfidence:
    """How often the version was right by how sure it was, on the build's labelled rows: how many there were in each bucket of
    `cluster.watch.catalogue.CONFIDENCES`, and how many of those were right. `output` holds the scores."""

    output: str
    rows: tuple[int, ...]
    right: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuiltQuality:
    """What the build's report says of the version, on `rows` labelled rows: the share that was right, or the mean square of the
    error. None where the task has no such number."""

    rows: int
    accuracy: float | None = None
    mse: float | None = None
    confidence: BuiltConfidence | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version. `digest` is the artifact manifest's SHA-256; `created_s` is Unix time. `quality` is None where no
    labelled rows were evaluated, or nobody said."""

    id: VersionId
    artifact_uri: str
    digest: str
    engine: str
    signature: Signature
    created_s: float
    quality: BuiltQuality | None = None


class Versions(Mapping[VersionId, Version]):
    """Versions by id, and by model at no search: with many models the controller asks for those of each at every tick.

    Immutable: what adds or removes one gives a copy, which shares what did not change.
    """

    __slots__ = ("_by_model",)

    def __init__(self, versions: Iterable[Version] = ()) -> None:
        by_model: dict[str, dict[int, Version]] = {}
        for version in sorted(versions, key=lambda version: version.id.number):
            by_model.setdefault(version.id.model, {})[version.id.number] = version
        self._by_model = by_model

    def of(self, model: str) -> list[Version]:
        """The versions of a model, oldest first."""
        return list(self._by_model.get(model, {}).values())

    def newest(self, model: str) -> int:
        """The highest number of a model's versions; 0 where it has none."""
        return next(reversed(self._by_model.get(model, {})), 0)

    def adding(self, version: Version) -> Versions:
        """These and that one."""
        return self._with(version.id.model, [*self.of(version.id.model), version])

    def without(self, gone: VersionId) -> Versions:
        """These but that one."""
        return self._with(gone.model, [version for version in self.of(gone.model) if version.id != gone])

    def _with(self, model: str, versions: list[Version]) -> Versions:
        changed = Versions()
        changed._by_model = {**self._by_model, **Versions(versions)._by_model}  # noqa: SLF001 - its own
        if not versions:
            changed._by_model.pop(model, None)
        return changed

    def __getitem__(self, version: VersionId) -> Version:
        return self._by_model[version.model][version.number]

    def __iter__(self) -> Iterator[VersionId]:
        return (version.id for versions in self._by_model.values() for version in versions.values())

    def __len__(self) -> int:
        return sum(map(len, self._by_model.values()))
