"""The `build` section of a Model document: where the version comes from, and what it must prove."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.signature import TensorSpec


class BuildSection(BaseModel):
    """Base of all parts. Paths are relative to the file that holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class CodeRef(BuildSection):
    """A `module:Name` and the folder where the module is looked for (the document's own by default)."""

    code: str = "."

    @staticmethod
    def check(value: str) -> str:
        """Returns `value` where it is like `module:Name`."""
        module, colon, name = value.partition(":")
        if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"must be like module:Name; got {value!r}")
        return value


class InputSpec(TensorSpec):
    """An input of the version. Its shape holds where the source leaves an axis free. `range`, lowest and highest, is what trial
    numbers are drawn from where there are no rows to try the model on."""

    range: tuple[float, float] | None = None

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] <= value[1]:
            raise ValueError(f"must be [lowest, highest]; got {list(value)}")
        return value

    @property
    def plain(self) -> TensorSpec:
        """The same as it stands in a signature."""
        return TensorSpec(name=self.name, datatype=self.datatype, shape=self.shape)


class PytorchSource(CodeRef):
    """A state_dict and the `module:Class` that it fills, made with `args`. `state_dict_key` is where it lies in a checkpoint.

    A whole network that was pickled has no `class`: reading it runs code, so only with `allow_pickle: true`.
    """

    state_dict: str
    state_dict_key: str | None = None
    class_: str | None = Field(default=None, alias="class")
    args: dict[str, Any] = Field(default_factory=dict)
    allow_pickle: bool = False

    @field_validator("class_")
    @classmethod
    def _module_and_class(cls, value: str | None) -> str | None:
        return None if value is None else CodeRef.check(value)

    @model_validator(mode="after")
    def _class_or_pickle(self) -> Self:
        if self.class_ is None and not self.allow_pickle:
            raise ValueError("class: name the module:Class that the state_dict fills")
        if self.class_ is not None and self.allow_pickle:
            raise ValueError("allow_pickle: a state_dict needs none; leave it out, or the class")
        return self


class KerasSource(CodeRef):
    """A Keras file with layers of one's own: `custom` are their classes, `module:Class`. `keras: FILE` is short for a file
    without."""

    file: str
    custom: tuple[str, ...] = ()

    @field_validator("custom")
    @classmethod
    def _modules_and_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(CodeRef.check(one) for one in value)


class SklearnSource(BuildSection):
    """A fitted scikit-learn estimator or Pipeline: `.skops`, or a pickle or joblib file, which runs code as it is read: only with
    `allow_pickle: true`. `sklearn: FILE` is short for a file without."""

    file: str
    allow_pickle: bool = False


class LightgbmSource(BuildSection):
    """A LightGBM model as text; or a fitted estimator of its scikit-learn kind: `.skops`, or a pickle, which runs code as it is
    read: only with `allow_pickle: true`. `lightgbm: FILE` is short for a file without."""

    file: str
    allow_pickle: bool = False


class MlflowSource(BuildSection):
    """A model that MLflow keeps: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/PATH`, or a folder with an MLmodel file.

    Resolved once a build; what it was stands in the version's provenance. Its signature gives the inputs and its input example
    the trial rows where the document gives none. `tracking_uri` is a server's address or `sqlite:///FILE`, MLflow's own setting
    where left out. `flavour` is taken where it has several. A flavour that is a pickle is read only with `allow_pickle: true`.
    `mlflow: URI` is short for one without.
    """

    uri: str
    tracking_uri: str = ""
    flavour: str | None = None
    allow_pickle: bool = False


class HuggingfaceSource(BuildSection):
    """A text encoder or sequence classifier as transformers saves it: `path`, a folder, or `repo`, such as `owner/name`, on the
    hub. Its weights are safetensors, and its tokenizer is part of the version: text goes in.

    `revision`, a branch, tag or commit, is resolved once a build; the commit stands in the version's provenance. `task` is the
    model's own where left out: a classifier's classes, else an embedding, which `pooling` makes of its tokens: the model's own
    again, or their mean. Text is cut at `max_length` tokens, at most as many as the model reads. `huggingface: FOLDER` is short
    for one with a `path` alone.
    """

    path: str | None = None
    repo: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
    revision: str = Field(default="main", min_length=1)
    task: Literal["classification", "embedding"] | None = None
    pooling: Literal["mean", "cls"] | None = None
    max_length: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.repo is None):
            raise ValueError("name one of path (a folder) and repo (owner/name on the hub)")
        if self.path is not None and self.revision != "main":
            raise ValueError("revision: a folder has none; leave it out")
        if self.task == "classification" and self.pooling is not None:
            raise ValueError("pooling: only an embedding has one; leave it out")
        return self


class ModelSource(BuildSection):
    """Exactly one of: a PyTorch state_dict, a torch.export program, a Keras file, a TensorFlow SavedModel, an ONNX file, a fitted
    scikit-learn estimator, an XGBoost model (JSON or UBJ), a LightGBM model (text), a CatBoost model (cbm or JSON),
    a model that MLflow keeps, a text model of Hugging Face's transformers."""

    pytorch: PytorchSource | None = None
    pt2: str | None = None
    keras: KerasSource | None = None
    saved_model: str | None = None
    onnx: str | None = None
    sklearn: SklearnSource | None = None
    xgboost: str | None = None
    lightgbm: LightgbmSource | None = None
    catboost: str | None = None
    mlflow: MlflowSource | None = None
    huggingface: HuggingfaceSource | None = None

    @field_validator("keras", "sklearn", "lightgbm", mode="before")
    @classmethod
    def _file_alone(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value

    @field_validator("mlflow", mode="before")
    @classmethod
    def _uri_alone(cls, value: object) -> object:
        return {"uri": value} if isinstance(value, str) else value

    @field_validator("huggingface", mode="before")
    @classmethod
    def _folder_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"name exactly one of {', '.join(type(self).model_fields)}; got {', '.join(kinds) or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def file(self) -> str:
        """The file or folder that holds the trained numbers; MLflow's URI, or the hub's name, where it is yet to be asked."""
        if self.pytorch:
            return self.pytorch.state_dict
        if self.mlflow:
            return self.mlflow.uri
        if self.huggingface:
            return self.huggingface.path or str(self.huggingface.repo)
        section = self.keras or self.sklearn or self.lightgbm
        return section.file if section else str(getattr(self, self.kind))


class Train(CodeRef):
    """The user's own training, run first: `function(**args)`, with `seed` where it takes one, in the document's folder.

    It writes the source's file, and returns the loss of each epoch. `data` are files whose digests are kept with the version.
    """

    function: str
    args: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    data: tuple[str, ...] = ()

    _module_and_function = field_validator("function")(CodeRef.check)

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """`train: module:function` is short for `train: {function: module:function}`."""
        return {"function": value} if isinstance(value, str) else value


class Evaluate(BuildSection):
    """The user's labelled rows: `.npz` or Parquet, with an array or column for each input and one for `label`.

    Parquet columns of inputs are numbers, text, or lists of either. `rows` is how many are read, from the start.
    """

    data: str
    label: str | None = None
    task: Literal["classification", "regression"] = "classification"
    rows: int = Field(default=10_000, ge=1)
    refuse_nan: bool = Field(
        default=True, description="refuse rows with a missing value (null, NaN) in a floating-point input; else it is NaN"
    )


class Gate(BuildSection):
    """What a version must keep to be registered; None is not looked at. Compared with the imported model on the same rows.

    Agreement is the share of rows with the same argmax (classification), or whose answers differ by at most 5 % of the standard
    deviation of the imported model's (regression). Drops are shares (0.01 is one point); `max_mse_rise` is relative.
    """

    min_agreement: float | None = Field(default=0.98, ge=0, le=1)
    max_accuracy_drop: float | None = Field(default=0.01, ge=0, le=1)
    max_mse_rise: float | None = Field(default=0.05, ge=0)
    max_neighbour_changes: float | None = Field(
        default=0.0, ge=0, le=1, description="share of rows that get another class beside other rows, extreme ones among them"
    )
    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    max_cross_entropy: float | None = Field(default=None, gt=0)
    max_mse: float | None = Field(default=None, gt=0)
    max_difference: float | None = Field(default=None, gt=0)
    max_size_bytes: int | None = Field(default=None, gt=0)
    max_p99_ms: float | None = Field(default=None, gt=0, description="at batch 1, one thread")
    max_memory_bytes: int | None = Field(default=None, gt=0)


class Finetune(BuildSection):
    """Gradient descent after pruning: stochastic, with momentum 0.9 and a learning rate that falls from `rate` to 0."""

    epochs: int = Field(default=20, ge=1)
    rate: float = Field(default=0.02, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    seed: int = 0


class Prune(BuildSection):
    """Removes `share` of the neurons and channels of each layer, the weakest first. `finetune: null` leaves it at that."""

    share: float = Field(default=0.5, gt=0, lt=1)
    finetune: Finetune | None = Finetune()


class Compress(BuildSection):
    """How the model is made smaller. `auto` tries what makes sense and keeps the fastest that passes the gate.

    `data` and `label` are rows that compression may learn from (calibration, fine-tuning): like `evaluate`'s, but other rows.
    """

    method: Literal["none", "auto", "int8-dynamic", "int8-static", "fp16"] = "none"
    prune: Prune | None = None
    data: str | None = None
    label: str | None = None
    rows: int = Field(default=10_000, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """`compress: auto` is short for `compress: {method: auto}`."""
        return {"method": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _rows_to_learn_from(self) -> Self:
        if self.prune and self.prune.finetune and not (self.data and self.label):
            raise ValueError("fine-tuning needs data and label; or set prune.finetune to null")
        return self


class Measure(BuildSection):
    """How long each variant is timed, all batch sizes together; a batch size that would take longer is left out, and said."""

    seconds: float = Field(default=60, gt=0)
    memory_bytes: int | None = Field(default=None, gt=0, description="half of the free memory by default")


class Profiling(BuildSection):
    """Whether the version keeps a profile of its inputs and outputs on `evaluate`'s rows, and which of these are left out of it.

    It holds edges, extremes and the names of categories, which may be personal. `profile: false` is short for `{make: false}`.
    """

    make: bool = True
    leave_out: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        return {"make": value} if isinstance(value, bool) else value


class Explaining(BuildSection):
    """Whether the version keeps up to 64 rows of `evaluate`'s for its rows to be explained against, and which inputs these lack.

    An input that is left out is 0, or the empty text, in all of them. `explain: false` is short for `{make: false}`: whoever
    wants an explanation then gives a baseline.
    """

    make: bool = True
    leave_out: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        return {"make": value} if isinstance(value, bool) else value


class BuildSpec(BuildSection):
    """The `build` section. `parity`: how far the import may be from the source's own answers, relative where they exceed 1.

    `sign` is the key that signs the version: one of `headrace signing new`, or a file in PEM.

    Inputs are bound by name where the source has names. `outputs` selects among the source's outputs, in that order; the others
    are left out. `constants` are inputs that no caller gives, with their values.

    `seal` names keys: whoever holds one of them can open the version, and nobody else. A name in HEADRACE_HOME/keys, `file:PATH`,
    `env:VARIABLE`, `vault:MOUNT/NAME` or `aws-kms:KEY`; of a file or variable the public half is enough. `seal: KEY` is short
    for a list of one.
    """

    train: Train | None = None
    source: ModelSource
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    constants: dict[str, Any] = Field(default_factory=dict)
    evaluate: Evaluate | None = None
    profile: Profiling = Profiling()
    explain: Explaining = Explaining()
    compress: Compress = Compress()
    optimise: bool = True
    gate: Gate = Gate()
    measure: Measure = Measure()
    parity: float = Field(default=1e-5, gt=0)
    engine: Literal["onnx", "torch"] = "onnx"
    sign: str | None = Field(default=None, min_length=1)
    seal: tuple[str, ...] = ()

    @field_validator("seal", mode="before")
    @classmethod
    def _key_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _inputs_known(self) -> Self:
        if self.source.pytorch and not self.inputs:
            raise ValueError("inputs: a state_dict says nothing of its inputs: list name, datatype and shape of each")
        if self.constants and self.source.kind not in ("pytorch", "onnx", "mlflow"):
            raise ValueError("constants: only pytorch and onnx sources take them")
        both = sorted({item.name for item in self.inputs} & set(self.constants))
        if both:
            raise ValueError(f"constants: {', '.join(both)} stands among the inputs too")
        if self.engine == "torch" and self.source.kind not in ("pytorch", "pt2", "mlflow"):
            raise ValueError("engine: torch serves pytorch and pt2 sources")
        if self.engine == "torch" and (self.compress.method not in ("none", "auto") or self.compress.prune):
            raise ValueError("compress: only engine: onnx can be compressed")
        return self
