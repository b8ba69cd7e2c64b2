"""An ONNX file's external data: where it lies behind links, as a download cache keeps it, which onnx and onnxruntime refuse; and
where it is more than one file can hold."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import google.protobuf.message
import onnx
from onnx.external_data_helper import load_external_data_for_tensor

from cluster.errors import BadInput

SMALL_NUMBERS = 1 << 16


def beside(file: Path, folder: Path) -> Path:
    """The file itself where it and its external data are plain files; else a copy in `folder`, its data beside it.

    Raises BadInput for data that leads out of the folders in which the file, and what it links to, lie.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except (google.protobuf.message.DecodeError, OSError, ValueError):
        return file  # whoever reads it says what is wrong
    places = sorted(set(_locations(model.graph)))
    data = [file.parent / place for place in places]
    if not any(one.is_symlink() or (one.exists() and one.stat().st_nlink > 1) for one in data):
        return file
    homes = [file.parent.resolve(), file.resolve().parent]
    for place, one in zip(places, data, strict=True):
        if Path(place).is_absolute() or ".." in Path(place).parts:
            return file  # onnx refuses it in its own words
        if not any(one.resolve().is_relative_to(home) for home in homes):
            raise BadInput(
                f"its external data {one.name} is a link to another folder",
                where=str(file),
                remedy=f"copy it with what it links to: cp -rL {file.parent} NEW_FOLDER",
            )
    for place, one in zip(places, data, strict=True):
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(one, target)
    return Path(shutil.copyfile(file, folder / file.name))


def outside_bytes(model: onnx.ModelProto, folder: Path) -> int:
    """How much lies in files of their own; one that is missing counts nothing: whoever reads it says so."""
    return sum(one.stat().st_size for place in {*_locations(model.graph)} if (one := folder / place).exists())


def keep_outside(model: onnx.ModelProto, folder: Path, target: Path) -> None:
    """Has the model's large weights lie beside `target`, copied there from `folder`, as files called after it; small ones, which
    the steps of a build read, are taken into the model, and so are those inside nodes, which onnxruntime takes from no memory.
    Raises OSError, ValueError."""
    names: dict[str, str] = {}
    for tensor in _outside(_of_nodes(model.graph)):
        _take_in(tensor, folder)
    for tensor in _outside(model.graph.initializer):
        if math.prod(tensor.dims) <= SMALL_NUMBERS:
            _take_in(tensor, folder)
            continue
        for item in tensor.external_data:
            if item.key == "location":
                item.value = names.setdefault(item.value, f"{target.name}.data{len(names) or ''}")
    for place, name in names.items():
        shutil.copyfile(folder / place, target.parent / name)


def _outside(tensors: Iterable[onnx.TensorProto]) -> Iterator[onnx.TensorProto]:
    return (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)


def _take_in(tensor: onnx.TensorProto, folder: Path) -> None:
    load_external_data_for_tensor(tensor, str(folder))
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def _locations(graph: onnx.GraphProto) -> Iterator[str]:
    """Where the tensors of a graph and of the graphs inside it lie."""
    for tensor in _tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from (item.value for item in tensor.external_data if item.key == "location")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph)


def _of_nodes(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield from (tensor for tensor in (attribute.t, *attribute.tensors) if tensor.ByteSize())
            yield from _inner((attribute.g, *attribute.graphs))


def _inner(graphs: Iterable[onnx.GraphProto]) -> Iterator[onnx.TensorProto]:
    for graph in graphs:
        if graph.ByteSize():
            yield from _tensors(graph)
