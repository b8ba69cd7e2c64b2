"""What a request asks for, beside what the model takes: checked before it joins others. Pure."""

from __future__ import annotations

from typing import NoReturn

from cluster.errors import BadInput, NotFound
from cluster.signature import Signature, TensorSpec
from deployments.gateway.protocol.request import InferRequest
from deployments.gateway.protocol.tensors import kind_of

OUTLIER = "outlier"  # the output that tells which rows are, where the request asks for it


def parse_version(version: str | None) -> int | None:
    """The number of a version; None and "" leave it to the split. Raises NotFound: other names are never served."""
    if not version:
        return None
    if not version.isascii() or not version.isdigit() or len(version) > 9:
        raise NotFound(f"no version {version[:80]!r}", where="version", remedy="versions are numbers")
    return int(version)


def check_inputs(request: InferRequest, signature: Signature) -> None:
    """Checks names, datatypes, shapes and equal rows, so that a bad request never joins others. Raises BadInput."""
    if len(request.inputs) != len(signature.inputs) or any(spec.name not in request.inputs for spec in signature.inputs):
        _raise_names(request, signature)
    rows: int | None = None
    for spec in signature.inputs:
        shape = request.inputs[spec.name].shape
        if request.datatypes[spec.name] is not spec.datatype:
            what = f"its datatype must be {spec.datatype}; got {request.datatypes[spec.name]}"
            raise BadInput(what, where=f"tensor {spec.name!r}")
        if not _fits(shape, spec.shape):
            raise BadInput(f"its shape must be {list(spec.shape)}; got {list(shape)}", where=f"tensor {spec.name!r}")
        if rows is not None and rows != shape[0]:
            raise BadInput(f"it has {shape[0]} rows, but other inputs have {rows}", where=f"tensor {spec.name!r}")
        rows = shape[0]
    if rows == 0:
        raise BadInput("the request has no rows", where="request")


def _raise_names(request: InferRequest, signature: Signature) -> NoReturn:
    """Names the input that the model does not have, or else the first that is missing."""
    known = [spec.name for spec in signature.inputs]
    for name in request.inputs:
        if name not in known:
            what = "the model has no such input"
            raise BadInput(what, where=f"tensor {name!r}", remedy=f"its inputs: {', '.join(known)}")
    missing = next(name for name in known if name not in request.inputs)
    raise BadInput("the input is missing", where=f"tensor {missing!r}")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if shape[1:] == wanted[1:] and wanted[0] == -1:  # most often
        return True
    return len(shape) == len(wanted) and all(want in (-1, axis) for axis, want in zip(shape, wanted, strict=True))


def wanted_outputs(request: InferRequest, signature: Signature) -> list[tuple[TensorSpec, bool]]:
    """The outputs that it asks for, and whether each is to come as bytes. Raises BadInput."""
    if request.outputs is None:
        return [(spec, request.binary) for spec in signature.outputs]
    wanted = []
    for output in request.outputs:
        spec = signature.output(output.name)
        if spec is None:
            known = ", ".join(known.name for known in signature.outputs)
            raise BadInput("the model has no such output", where=f"output {output.name!r}", remedy=f"its outputs: {known}")
        wanted.append((spec, request.binary if output.binary is None else output.binary))
    return wanted


def asks_for_outliers(request: InferRequest, signature: Signature) -> bool:
    """Whether it wants to know which rows are outliers. Raises BadInput."""
    asked = request.parameters.get("outliers", False)
    if not isinstance(asked, bool):
        raise BadInput(f"outliers must be true or false; got {kind_of(asked)}", where="request")
    if asked and signature.output(OUTLIER) is not None:
        raise BadInput(f"the model has an output {OUTLIER!r} of its own", where="outliers", remedy="ask without outliers")
    return asked


def routing_key(request: InferRequest) -> bytes | None:
    """The key that steers it, where it gives one."""
    key = request.parameters.get("routing_key")
    return None if key is None else str(key).encode()


def timeout_s_of(request: InferRequest) -> float | None:
    """Triton's `timeout` parameter, in microseconds; 0 leaves it to the model. Raises BadInput."""
    timeout = request.parameters.get("timeout")
    if timeout is None or timeout == 0:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise BadInput(f"timeout must be a whole number of microseconds; got {kind_of(timeout)}", where="request")
    return timeout / 1e6
