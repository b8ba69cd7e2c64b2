"""The onnx engine: onnxruntime on CPU, or on CUDA where the replica has a GPU and the provider is installed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
import onnxruntime as ort

from cluster.errors import BadArtifact, BadInput, Conflict, EngineFailure
from cluster.signature import Datatype, Signature
from deployments.engines.cuda import memory_bytes
from deployments.engines.datatypes import NUMPY, Array
from deployments.engines.failures import told_by
from deployments.engines.model_bytes import Give, ModelBytes, file_in_memory, path_of, told
from deployments.engines.onnx_external import LocationMention, located_weights
from deployments.engines.onnxruntime_inside import forget_bytes, session_errors
from deployments.engines.port import RowsRefused
from deployments.engines.tokenizer import tokenizer_of

CUDA = "CUDAExecutionProvider"
FROM_MEMORY = "add_external_initializers_from_files_in_memory"  # of session options; not in every release that we take
OWN_SETTINGS = "ORT_LOAD_CONFIG_FROM_MODEL"  # onnxruntime's own variable

_log = logging.getLogger(__name__)

ORT_ERRORS = session_errors()


class OnnxEngine:
    """Runs `model.onnx` of one artifact, its tokenizer first where it has one. An onnxruntime session may be called from several
    threads at a time."""

    def __init__(self, model: Path | ModelBytes, signature: Signature, *, threads: int, gpus: float) -> None:
        """Loads a model, a file or its bytes. Raises BadArtifact where onnxruntime refuses it."""
        self._signature = signature
        self._names = [spec.name for spec in signature.outputs]
        self._datatypes = [spec.datatype for spec in signature.outputs]
        self._bytes_inputs = [spec.name for spec in signature.inputs if spec.datatype is Datatype.BYTES]
        where = told(model)
        try:
            self._session = _session(model, threads, gpus)
        except ORT_ERRORS as error:
            raise BadArtifact(
                f"onnxruntime refuses the model: {_first_line(error)}", where=where, remedy="build it again"
            ) from error
        if gpus > 0 and CUDA not in self._session.get_providers():
            _log.warning(
                "the replica has a GPU, but onnxruntime can't use it: install onnxruntime-gpu[cuda,cudnn]; scoring on the CPU"
            )
        declared = {spec.name for spec in signature.inputs}, set(self._names)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._tokenizer = tokenizer_of(metadata, declared[0], where=where)
        given = {item.name for item in self._session.get_inputs()}
        if self._tokenizer is not None:
            given = given - set(self._tokenizer.settings.feeds) | {self._tokenizer.settings.input}
        found = given, {item.name for item in self._session.get_outputs()}
        if found[0] != declared[0] or not declared[1] <= found[1]:
            raise BadArtifact(
                f"the model's tensors {sorted(found[0] | found[1])} are not the signature's {sorted(declared[0] | declared[1])}",
                where=where,
                remedy="build it again",
            )

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""
        return self._signature

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Scores one batch; see `Engine.score`."""
        feed = dict(tensors)
        rows = len(next(iter(feed.values())))
        if rows == 0:
            # Some kernels divide by the number of rows, which ends the process.
            return {
                spec.name: np.empty((0, *(max(0, axis) for axis in spec.shape[1:])), NUMPY[spec.datatype])
                for spec in self._signature.outputs
            }
        try:
            for name in self._bytes_inputs:
                feed[name] = decode_text(feed[name])
        except UnicodeDecodeError:
            raise RowsRefused.of(_not_utf8({name: tensors[name] for name in self._bytes_inputs})) from None
        try:
            answers = self._answers(feed)
        except ORT_ERRORS as error:
            raise EngineFailure(f"the model failed: {told_by(error)}") from None  # its own text quotes values
        outputs: dict[str, Array] = {}
        for name, datatype, answer in zip(self._names, self._datatypes, answers, strict=True):
            value = encode_text(answer) if datatype is Datatype.BYTES else answer
            if value.ndim == 0 or len(value) != rows or value.dtype != NUMPY[datatype]:
                raise EngineFailure(
                    f"the model gave {name} as {value.dtype} {list(value.shape)} for {rows} rows, not as its signature says"
                )
            outputs[name] = value
        return outputs

    def _answers(self, feed: Mapping[str, Array]) -> list[Array]:
        if self._tokenizer is None:
            return self._run(feed)
        return self._tokenizer.run(self._run, feed[self._tokenizer.settings.input])

    def _run(self, feed: Mapping[str, Array]) -> list[Array]:
        found: list[Array] = self._session.run(self._names, feed)
        return found


def _session(model: Path | ModelBytes, threads: int, gpus: float) -> ort.InferenceSession:
    options, providers = _options(threads), _providers(gpus)
    if isinstance(model, Path):
        return ort.InferenceSession(str(model), options, providers=providers)
    if model.sealed:
        _refuse_copies()
    # From bytes onnxruntime makes two copies on the way, from a file none: so it gets one, in memory. Not where the GPU may fail:
    # then it makes the session again, from what it was made from, on the CPU.
    mention = LocationMention()
    in_memory = file_in_memory(partial(_poured, model, mention)) if len(providers) == 1 else None
    if in_memory is None:
        content = model.read()
    else:
        try:
            content = Path(path_of(in_memory)).read_bytes() if mention.seen else b""
            if not _weights_outside(content, model.where):
                return ort.InferenceSession(path_of(in_memory), options, providers=providers)
        finally:
            os.close(in_memory)
    _give_weights(_weights_outside(content, model.where), model, options)
    session = ort.InferenceSession(content, options, providers=providers)
    if len(providers) == 1:
        forget_bytes(session)
    return session


def _poured(model: ModelBytes, mention: LocationMention, give: Give) -> None:
    def both(block: memoryview) -> None:
        mention.look_at(block)
        give(block)

    model.pour(both)


def _refuse_copies() -> None:
    """Raises Conflict where onnxruntime would write of a sealed model what its own metadata asks for: profiles, for one."""
    if os.environ.get(OWN_SETTINGS, "0") != "0":
        raise Conflict(
            "a sealed model must not say itself how it is run: it may ask for copies and profiles in files",
            where=OWN_SETTINGS,
            remedy="unset the variable where versions are served",
        )


def _weights_outside(content: bytes, where: str) -> dict[str, str]:
    """The files that the graph reads weights from, as it names them, and by their paths in the version. Raises BadArtifact where
    that can't be told: onnxruntime might find some that we don't; and where it would open the file, whatever it is given."""
    try:
        found = sorted(located_weights(content))
    except ValueError as error:
        raise BadArtifact(f"the model {error}", where=where, remedy="build it again") from error
    opened = next((one.name for one in found if not one.from_memory), None)
    if opened is not None:
        what = f"a graph inside its graph, a function or an attribute has weights in {opened!r}, which would be opened unverified"
        raise BadArtifact(what, where=where, remedy="build it again: such weights are taken into the model")
    return {one.name: PurePosixPath(one.name).as_posix() for one in found}


def _give_weights(outside: Mapping[str, str], model: ModelBytes, options: ort.SessionOptions) -> None:
    """Raises BadArtifact for weights in a file that nobody has verified, or where onnxruntime takes none from memory."""
    if not outside:
        return
    unknown = next((name for name, path in outside.items() if path not in model.beside), None)
    if unknown is not None:
        raise BadArtifact(
            f"its graph has weights in {unknown!r}, which is no file of the version", where=model.where, remedy="build it again"
        )
    if not hasattr(options, FROM_MEMORY):
        words = f"onnxruntime {ort.__version__} can't read weights beside a model from memory"
        raise BadArtifact(words, where=model.where, remedy="install a newer one")
    buffers = [model.beside[path] for path in outside.values()]
    getattr(options, FROM_MEMORY)(list(outside), buffers, [len(buffer) for buffer in buffers])


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Replicas share cores: spinning threads burn them, and the arena would keep its peak for ever.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return options


def _providers(gpus: float) -> list[str | tuple[str, dict[str, str]]]:
    if gpus <= 0 or CUDA not in ort.get_available_providers():
        return ["CPUExecutionProvider"]
    # CUDA's libraries from the packages beside it: where one is missing, onnxruntime takes the CPU without a word.
    ort.preload_dlls()
    # TF32 has 10 bits of fraction: with it a replica would answer otherwise than the build, and never become ready. Asking
    # cuDNN takes a fifth of what trying every algorithm does, the default, at each new number of rows; no answer is slower.
    options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    total = memory_bytes()
    if total is not None:
        # A replica beside it on the same GPU keeps its own share of the memory.
        options["gpu_mem_limit"] = str(int(total * min(gpus, 1.0)))
    return [(CUDA, options), "CPUExecutionProvider"]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def decode_text(value: Array) -> Array:
    """BYTES to onnxruntime's strings, which are UTF-8. Raises UnicodeDecodeError."""
    text = np.empty(value.size, dtype=np.object_)
    text[:] = [item.decode() for item in value.ravel().tolist()]
    return text.reshape(value.shape)


def _not_utf8(tensors: Mapping[str, Array]) -> dict[int, BadInput]:
    """Each row that holds something else, with its first such element."""
    refused: dict[int, BadInput] = {}
    for name, tensor in tensors.items():
        for place, item in np.ndenumerate(tensor):
            if place[0] not in refused and not _is_utf8(cast(bytes, item)):
                inner = f", element {list(place[1:])} of the row," if len(place) > 1 else ""
                refused[place[0]] = BadInput(
                    f"input {name!r}{inner} is not UTF-8, and the model reads text",
                    remedy="send text as UTF-8, and other bytes as text, base64 for one, that the model was made to read",
                )
    return refused


def _is_utf8(item: bytes) -> bool:
    try:
        item.decode()
    except UnicodeDecodeError:
        return False
    return True


def encode_text(value: Array) -> Array:
    """onnxruntime's strings to BYTES."""
    data = np.empty(value.size, dtype=np.object_)
    data[:] = [item.encode() for item in value.ravel().tolist()]
    return data.reshape(value.shape)
