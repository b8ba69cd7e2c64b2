"""What `headrace init` finds out of a model file, each kind in the way that runs none of its code here."""

from __future__ import annotations

from pathlib import Path

from cluster.signature import Datatype, TensorSpec
from deployments.builder.looking.kinds import FileKind, kind_of
from deployments.builder.looking.seen import Seen, SeenInput
from deployments.builder.sources.huggingface_models.folder import TextTask, labels_of, read_text_model, shards_of
from deployments.builder.sources.importing import ENVIRONMENT, EXTRAS
from deployments.builder.sources.mlflow_models.flavours import inputs_of, source_of
from deployments.builder.sources.mlflow_models.mlmodel import read_mlmodel
from deployments.builder.spec import HuggingfaceSource, MlflowSource
from deployments.builder.worker import run_worker

TRUST = "it is a pickle, which runs code when it is read: leave this only where you trust who made it"
MOST_LABELS = 8
UNREAD = SeenInput(
    spec=TensorSpec(name="input", datatype=Datatype.FP32, shape=(-1, 1)),
    unsure="the pickle was not read: list one input of shape [-1, COLUMNS], or one of shape [-1, 1] for each column, by its name",
)


def describe(file: Path, log: Path) -> tuple[FileKind, Seen]:
    """The file's kind, and what it says. Blocks for seconds: its library reads it in a process of its own, behind a fence.

    Raises NotFound, or BadInput for a file that is damaged, would run code, is none of the kinds, or needs what is not installed.
    """
    kind = kind_of(file)
    if kind.source == "mlflow":
        return kind, _mlflow(file)
    if kind.source == "huggingface":
        return kind, _huggingface(file)
    if kind.source == "saved_model":
        return kind, Seen(notes=("Inputs and outputs are those of its signature serving_default, which the build reads.",))
    if kind.pickle:
        return kind, Seen(settings={"allow_pickle": True}, unsure={"allow_pickle": TRUST}, inputs=(UNREAD,))
    told = run_worker(
        "looking.look",
        {"file": str(file), "kind": kind.source},
        what=f"reading {file.name}",
        log=log,
        environment=ENVIRONMENT,
        extra=EXTRAS[kind.source],
    )
    return kind, Seen.model_validate(told)


def _mlflow(folder: Path) -> Seen:
    """By its MLmodel file, which is text. A pickle is told of, and stays unread."""
    model = read_mlmodel(folder)
    flavour, source = source_of(model, MlflowSource(uri=str(folder), allow_pickle=True))
    section = source.sklearn or source.lightgbm or source.pytorch
    readable = Path(source.file).suffix in (".skops", ".lgb")
    pickled = section is not None and section.allow_pickle and not readable
    return Seen(
        settings={"allow_pickle": True} if pickled else {},
        unsure={"allow_pickle": TRUST} if pickled else {},
        inputs=tuple(SeenInput(spec=spec.plain) for spec in inputs_of(model, source)),
        notes=(
            f"MLflow's flavour {flavour}." + (" Its input example gives the trial rows." if model.example else ""),
            "`uri` may also be models:/NAME@ALIAS, with `tracking_uri`: then the version is looked up at each build.",
        ),
    )


def _huggingface(folder: Path) -> Seen:
    """By its JSON files. Of its weights only the names are looked at."""
    found = read_text_model(folder, HuggingfaceSource(path=str(folder)))
    shards_of(folder)
    if found.task is TextTask.CLASSIFICATION:
        labels = labels_of(folder)
        what = f"{found.architecture}" + (f", classes {', '.join(labels[:MOST_LABELS])}" if labels else "")
        what += f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    else:
        what = f"{found.architecture}: an embedding, the {found.pooling.value} of its tokens"
    return Seen(
        notes=(
            f"{what}. Text goes in: the input `text`, [-1] of BYTES.",
            "`repo: owner/name` with `revision` in place of a folder fetches it from the hub at each build.",
        )
    )
