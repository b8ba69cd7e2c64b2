"""From a torch module to one ONNX file, and the module's own answers to compare with. Runs in workers only."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import BadInput
from cluster.signature import TensorSpec
from deployments.builder.sources.answers import record
from deployments.builder.sources.binding import BY_NAME, IN_ORDER, bind, select
from deployments.engines.datatypes import NUMPY, Array
from deployments.engines.failures import told_by

BATCH = 256


class Bound(torch.nn.Module):
    """A module with its inputs in the version's order, and of its outputs those that the version has, as a tuple."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str] | None, constants: Mapping[str, Any]) -> None:
        """`names` are forward's parameters for the tensors, None where they go by position; `constants` are other parameters."""
        super().__init__()
        # The module has been told; a program can't be, and needs not.
        self.training = False
        self.module = module
        self._names = names
        self._constants = dict(constants)
        self._keys: list[str] | None = None

    def call(self, *tensors: torch.Tensor) -> Any:
        """What the module itself returns."""
        if self._names is None:
            return self.module(*tensors, **self._constants)
        return self.module(**dict(zip(self._names, tensors, strict=True)), **self._constants)

    def keep(self, keys: Sequence[str]) -> None:
        """From now on only these outputs, by the names of `named_outputs`."""
        self._keys = list(keys)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs kept, in order."""
        found = named_outputs(self.call(*tensors))[0]
        return tuple(found.values()) if self._keys is None else tuple(found[key] for key in self._keys)


def bind_forward(module: torch.nn.Module, inputs: Sequence[TensorSpec], constants: Mapping[str, Any]) -> tuple[Bound, str]:
    """Binds the inputs to the parameters of the module's forward; returns how, too. Raises BadInput that lists the parameters."""
    parameters = inspect.signature(module.forward).parameters.values()
    listed = [spec.name for spec in inputs]
    named = [item for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    unknown = [name for name in constants if name not in [item.name for item in named]]
    if unknown:
        raise BadInput(f"forward has no parameter {', '.join(unknown)}", where="constants", remedy="use forward's own parameters")
    named = [item for item in named if item.name not in constants]
    if any(item.kind in (item.VAR_POSITIONAL, item.POSITIONAL_ONLY) for item in parameters):
        return Bound(module, None, constants), BY_NAME if len(listed) == 1 else IN_ORDER
    if any(item.kind is item.VAR_KEYWORD for item in parameters) and not named:
        return Bound(module, listed, constants), BY_NAME
    optional = [item.name for item in named if item.default is not item.empty]
    required = [item.name for item in named if item.name not in optional]
    own = required if len(listed) == len(required) == 1 and listed[0] not in optional else [item.name for item in named]
    binding = bind(listed, own, what="inputs", optional=optional)
    of = {name: parameter for parameter, name in binding.names.items()}
    return Bound(module, [of[name] for name in listed], constants), binding.how


def select_outputs(bound: Bound, feed: Sequence[torch.Tensor], wanted: Sequence[str], where: str) -> tuple[list[str], str]:
    """Keeps of the module's outputs those wanted, and returns their names and how they were found. Raises BadInput."""
    with torch.no_grad():
        found, named = named_outputs(_called(bound.call, [tensor[:2] for tensor in feed], where))
    own = list(found)
    if not named and len(own) == 1:
        own_names = dict.fromkeys(own, "output")
    else:
        own_names = {name: name if named else f"output_{name}" for name in own}
    binding = select(wanted, [own_names[name] for name in own], named=named)
    keys = {shown: key for key, shown in own_names.items()}
    kept = {keys[shown]: name for shown, name in binding.names.items()}
    rows = len(feed[0][:2])
    good = [own_names[key] for key in own if _has_rows(found[key], rows)]
    wrong = [own_names[key] for key in kept if own_names[key] not in good]
    if wrong:
        remedy = (
            f"leave it out: outputs: [{', '.join(good)}]" if good and named else "return a tensor, a tuple or a dict of tensors"
        )
        raise BadInput(f"output {', '.join(wrong)} is no tensor with a row for each row", where=where, remedy=remedy)
    bound.keep(list(kept))
    return list(kept.values()), binding.how


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows


def named_outputs(out: Any) -> tuple[dict[str, Any], bool]:
    """The outputs by name, or by place, and whether those are names: a dict's keys, or a named tuple's fields."""
    if isinstance(out, dict):
        return {str(key): value for key, value in out.items()}, True
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return dict(zip(out._fields, out, strict=True)), True
    items = list(out) if isinstance(out, tuple | list) else [out]
    return {str(place): value for place, value in enumerate(items)}, False


def answers(module: Any, feed: Sequence[torch.Tensor], *, where: str, batch: int = BATCH) -> list[np.ndarray[Any, Any]]:
    """The module's outputs, a tuple of them, for all rows, computed `batch` at a time. Raises BadInput where it fails on them."""
    parts: list[list[np.ndarray[Any, Any]]] = []
    with torch.no_grad():
        for start in range(0, len(feed[0]), batch):
            out = _called(module, [tensor[start : start + batch] for tensor in feed], where)
            parts.append([item.numpy() for item in out])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _called(module: Callable[..., Any], feed: Sequence[torch.Tensor], where: str) -> Any:
    try:
        return module(*feed)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise BadInput(
            f"the network fails on the rows: {told_by(error)}",
            where=where,
            remedy="check the inputs' names, shapes and datatypes; the build's log has the lines that failed",
        ) from error


def own_answers(
    module: Any, rows: Mapping[str, Array], outputs: Sequence[str], job: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Writes the module's own answers to `rows`, in the inputs' order, for the import to be compared with; returns what is told
    of them."""

    def score(inputs: Mapping[str, Array]) -> dict[str, Array]:
        feed = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in rows]
        return dict(zip(outputs, answers(module, feed, where=where), strict=True))

    return record(score, rows, job)


def export(
    module: torch.nn.Module,
    feed: Sequence[torch.Tensor],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    file: Path,
    *,
    where: str,
) -> None:
    """Writes the module as one ONNX file with a free batch axis. Raises BadInput that names what can't be exported."""
    try:
        program = torch.onnx.export(
            module,
            _example(feed),
            dynamo=True,
            verbose=False,
            input_names=[spec.name for spec in inputs],
            output_names=list(outputs),
            dynamic_shapes=_free_axes(module, inputs, _axis_name),
        )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise _refused(error, "can't be exported to ONNX", where, "replace it, or serve it with engine: torch") from error
    if program is None:
        raise BadInput("can't be exported to ONNX", where=where, remedy="see the log")
    _free_names(program, {*outputs, *(spec.name for spec in inputs)})
    program.save(str(file))


def _free_names(program: torch.onnx.ONNXProgram, taken: Set[str]) -> None:
    """Gives tensors within the graph other names where the exporter called them as an input or output is called."""
    kept = {id(value) for value in (*program.model.graph.inputs, *program.model.graph.outputs)}
    for node in program.model.graph.all_nodes():
        for value in node.outputs:
            if value.name in taken and id(value) not in kept:
                value.name = f"inner.{value.name}"


def export_program(
    module: torch.nn.Module, feed: Sequence[torch.Tensor], inputs: Sequence[TensorSpec], file: Path, *, where: str
) -> None:
    """Writes the module as a torch.export program with a free batch axis. Raises BadInput that names what can't be exported."""
    try:
        program = torch.export.export(
            module, _example(feed), dynamic_shapes=_free_axes(module, inputs, lambda *_: torch.export.Dim.DYNAMIC)
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise _refused(error, "can't be exported", where, "use operators that torch.export knows") from error
    torch.export.save(program, file)


def _refused(error: BaseException, what: str, where: str, remedy: str) -> BadInput:
    """The cause in one sentence."""
    told = " ".join(_chain(error))
    if re.search(r"data-dependent|DataDependent|dynamic control flow|Could not guard", told, re.IGNORECASE):
        return BadInput(
            f"{what}: its forward takes another way through the code for other values (an `if` or a loop over a tensor)",
            where=where,
            remedy="compute both ways and choose by torch.where, or use torch.cond",
        )
    fixed = re.search(r"specialized it to be a constant \((\d+)\)", told)
    if fixed:
        return BadInput(
            f"{what}: its forward takes an axis of {fixed.group(1)} for a constant, one that callers may make longer",
            where=where,
            remedy="take lengths from x.shape, not from what was seen; a recurrent layer needs batch_first=True",
        )
    return BadInput(f"{what}: {reason(error)}", where=where, remedy=remedy)


def _chain(error: BaseException | None) -> list[str]:
    told: list[str] = []
    while error is not None:
        told.append(f"{type(error).__name__} {error}")
        error = error.__cause__
    return told


def signature_json(inputs: Sequence[TensorSpec], outputs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The signature of a program, as plain data; `outputs` are its answers by name, numpy arrays."""
    specs = []
    for name, value in outputs.items():
        datatype = next((known for known, dtype in NUMPY.items() if dtype == value.dtype), None)
        if datatype is None:
            raise BadInput(f"output {name} is {value.dtype}", where=where, remedy="return plain numbers")
        specs.append(TensorSpec(name=name, datatype=datatype, shape=(-1, *value.shape[1:])))
    return {
        "inputs": [spec.model_dump(mode="json", include=set(TensorSpec.model_fields)) for spec in inputs],
        "outputs": [spec.model_dump(mode="json") for spec in specs],
    }


def _example(feed: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Two rows: a batch of 1 would be taken for a constant."""
    return tuple(tensor[:2] if len(tensor) > 1 else torch.cat([tensor, tensor]) for tensor in feed)


def _axis_name(spec: TensorSpec, axis: int) -> str:
    return f"{spec.name}_{axis}" if axis else "batch"


def _free_axes(module: torch.nn.Module, inputs: Sequence[TensorSpec], name: Callable[[TensorSpec, int], Any]) -> tuple[Any, ...]:
    free: tuple[Any, ...] = tuple({axis: name(spec, axis) for axis, size in enumerate(spec.shape) if size < 0} for spec in inputs)
    starred = any(item.kind is item.VAR_POSITIONAL for item in inspect.signature(module.forward).parameters.values())
    return (free,) if starred else free


def reason(error: BaseException) -> str:
    """The operator that has no ONNX form, where the exporter names one; else its innermost first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    operator = re.search(r"op(?:erator)?='?([\w.:]+\.[\w.:]+)'?", text)
    if operator:
        return f"operator {operator.group(1)}"
    return text.strip().split("\n", 1)[0]
