"""Project files: YAML documents of kind Model, Stream, Batch, Access and Project, checked against what each kind may hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from cluster.access.policy import Access
from cluster.commands.documents import Apply, FeedDocument, ModelDocument
from cluster.drift.section import Drift
from cluster.errors import BadInput, HeadraceError, NotFound
from cluster.fleet.serving import AskedServing, Serving
from cluster.quality.section import LiveLabels, check_alike
from cluster.rollout.plan import Plan
from cluster.schedule.cron import with_five_fields
from cluster.section import Section
from cluster.versions import check_name
from cluster.watch.payloads import Payloads
from consumers.batch.spec import BatchSpec, ScoringPlace
from consumers.stream.security import Security
from consumers.stream.spec import StreamSpec
from deployments.builder.spec import BuildSpec
from headrace.project.explain import did_you_mean, explain
from headrace.project.paths import resolve_fields
from headrace.project.yaml_source import Source, read_sources

S = TypeVar("S", bound=BaseModel)

KINDS = ("Model", "Stream", "Batch", "Access", "Project")
SPECS: dict[str, type[BaseModel]] = {"Stream": StreamSpec, "Batch": BatchSpec}
SUFFIXES = (".yaml", ".yml")


class _Project(Section):
    """Names the project that all documents beside it make up."""

    kind: str
    name: str


class _Model(BaseModel):
    """A Model document, but for its build section, which the builder checks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    name: str
    build: dict[str, Any] | None = None
    serving: AskedServing = Serving()
    rollout: Plan = Plan()
    payloads: Payloads | None = None
    drift: Drift | None = None
    labels: LiveLabels | None = None

    @model_validator(mode="after")
    def _labels_alike(self) -> Self:
        check_alike(self.labels, self.rollout.checks.labels)
        return self


class _Feed(BaseModel):
    """What every Stream and Batch document holds beside its own fields."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    model: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A Model document. `build` is its checked build section, where it has one; its paths are relative to the file."""

    source: Source
    document: ModelDocument
    build: BuildSpec | None


@dataclass(frozen=True, slots=True)
class FeedFile:
    """A Stream or Batch document. `spec` is its checked `StreamSpec` or `BatchSpec`."""

    source: Source
    document: FeedDocument
    spec: BaseModel


@dataclass(frozen=True, slots=True)
class Project:
    """All documents of the files given, in their order. `name` is the Project document's; empty where there is none. `access` is
    the Access document."""

    models: tuple[ModelFile, ...]
    feeds: tuple[FeedFile, ...]
    name: str = ""
    access: Access | None = None

    def apply(self, *, prune: bool = False, dry_run: bool = False) -> Apply:
        """The request that makes these documents so."""
        return Apply(
            models=tuple(model.document for model in self.models),
            feeds=tuple(feed.document for feed in self.feeds),
            access=self.access,
            project=self.name,
            prune=prune,
            dry_run=dry_run,
        )

    def feed(self, kind: str, name: str) -> FeedFile:
        """The Stream or Batch (`stream`, `batch`) of that name. Raises NotFound."""
        for one in self.feeds:
            if (one.document.kind, one.document.name) == (kind, name):
                return one
        known = [one.document.name for one in self.feeds if one.document.kind == kind]
        raise NotFound(f"no {kind} of this name in the project files", where=name, remedy=did_you_mean(name, known))

    def model(self, name: str) -> ModelFile:
        """The Model of that name. Raises NotFound."""
        for one in self.models:
            if one.document.name == name:
                return one
        known = [one.document.name for one in self.models]
        raise NotFound("no Model of this name in the project files", where=name, remedy=did_you_mean(name, known))


def load_project(paths: Sequence[Path]) -> Project:
    """Reads files, and folders' *.yaml and *.yml. Raises NotFound or BadInput with file, line, field and remedy."""
    models: list[ModelFile] = []
    feeds: list[FeedFile] = []
    seen: dict[tuple[str, str], Source] = {}
    named: dict[str, Source] = {}
    access: tuple[Access, Source] | None = None
    for source in (source for file in _files(paths) for source in read_sources(file)):
        kind = _kind(source)
        if kind == "Project":
            named[_name(_check(_Project, source.data, source).name, "name", source)] = source
            continue
        if kind == "Access":
            if access is not None:
                first = access[1].where(())
                raise BadInput(f"a second Access document; first at {first}", where=source.where(("kind",)), remedy="keep one")
            data = {key: value for key, value in source.data.items() if key != "kind"}
            access = _check(Access, data, source), source
            continue
        one = _model(source) if kind == "Model" else _feed(source, kind)
        key = (kind, one.document.name)
        if key in seen:
            raise BadInput(
                f"{kind} {one.document.name} is written twice; first at {seen[key].where(())}",
                where=source.where(("name",)),
                remedy="keep one of the two, or give it another name",
            )
        seen[key] = source
        if isinstance(one, ModelFile):
            models.append(one)
        else:
            feeds.append(one)
    if len(named) > 1:
        first, second, *_ = named
        raise BadInput(
            f"two projects, {first!r} and {second!r}",
            where=named[second].where(("name",)),
            remedy="keep one Project document, or apply the two one after the other",
        )
    if not seen and not named and access is None:
        raise BadInput("no document found", where=", ".join(map(str, paths)), remedy="write one that begins with `kind: Model`")
    return Project(tuple(models), tuple(feeds), next(iter(named), ""), access[0] if access is not None else None)


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
        if not found:
            raise NotFound("no *.yaml file in this folder", where=str(path), remedy="give a project file, or a folder with some")
        files.extend(found)
    return files


def _kind(source: Source) -> str:
    kind = source.data.get("kind")
    if kind is None:
        raise BadInput("missing", where=source.where(("kind",)), remedy=f"add one of: {', '.join(KINDS)}")
    if kind == "Signing":
        remedy = "keep it beside the project and give it to `headrace up --signing`: no document that is applied may change it"
        raise BadInput("a signing policy is a file of each node", where=source.where(("kind",)), remedy=remedy)
    if kind not in KINDS:
        raise BadInput(f"unknown kind {kind!r}", where=source.where(("kind",)), remedy=did_you_mean(str(kind), list(KINDS)))
    return str(kind)


def _model(source: Source) -> ModelFile:
    document = _check(_Model, resolve_fields(source.data, "Model", source.file.parent), source)
    build: BuildSpec | None = None
    if document.build is not None:
        build = _check(BuildSpec, document.build, source, ("build",))
    name = _name(document.name, "name", source)
    payloads = document.payloads
    if payloads is not None and payloads.kafka is not None:
        _check(Security, payloads.kafka.security, source, ("payloads", "kafka", "security"))
    whole = ModelDocument(
        name=name,
        serving=document.serving,
        rollout=document.rollout,
        payloads=payloads,
        drift=document.drift,
        labels=document.labels,
    )
    return ModelFile(source, whole, build)


def _feed(source: Source, kind: str) -> FeedFile:
    feed = _check(_Feed, source.data, source)
    shape = SPECS[kind]
    data = resolve_fields(source.data, kind, source.file.parent)
    own = {key: value for key, value in data.items() if key in shape.model_fields or key not in _Feed.model_fields}
    spec = _check(shape, own, source)
    _refuse_idle_gpus(spec, source)
    _refuse_seconds(spec, source)
    document = FeedDocument(
        kind="stream" if kind == "Stream" else "batch",
        name=_name(feed.name, "name", source),
        model=_name(feed.model, "model", source),
        spec=spec.model_dump(mode="json"),
        schedule=spec.schedule if isinstance(spec, BatchSpec) else None,
    )
    return FeedFile(source, document, spec)


def _refuse_idle_gpus(spec: BaseModel, source: Source) -> None:
    """Raises BadInput for GPUs of a process that scores on the CPU, or asks the model's replicas."""
    if isinstance(spec, StreamSpec) and spec.resources.gpus > 0:
        what, field = "a stream's own replicas use no GPU", "resources"
    elif isinstance(spec, BatchSpec) and spec.scoring is ScoringPlace.REMOTE and spec.workers.resources.gpus > 0:
        what, field = "with `scoring: remote` the workers use no GPU", "workers.resources"
    else:
        return
    raise BadInput(
        f"{what}: it would stand idle",
        where=source.where((*field.split("."), "gpus")),
        remedy="remove it here; give GPUs to the model, with `transport: remote` and `resources.gpus` in its `serving`",
    )


def _refuse_seconds(spec: BaseModel, source: Source) -> None:
    """Raises BadInput for a cron line that also tells the second."""
    if isinstance(spec, BatchSpec) and spec.schedule is not None:
        try:
            with_five_fields(spec.schedule)
        except ValueError as error:
            remedy = "leave out the first field, e.g. '30 2 * * *' for half past two"
            raise BadInput(str(error), where=source.where(("schedule", "cron")), remedy=remedy) from error


def _check(shape: type[S], data: dict[str, Any], source: Source, under: tuple[str, ...] = ()) -> S:
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise explain(error, source, shape, under) from error


def _name(name: str, field: str, source: Source) -> str:
    try:
        return check_name(name, what=str(source.data["kind"]).lower() if field == "name" else field)
    except HeadraceError as error:
        raise BadInput(error.what, where=source.where((field,)), remedy=error.remedy) from error
