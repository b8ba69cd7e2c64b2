"""Worker: makes variants of an ONNX file with onnxruntime's own tools: int8 (dynamic, static), fp16, and offline optimisation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.registry import QDQRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from cluster.foreign import trace_of
from deployments.builder.steps.row_scales import scale_by_row
from deployments.builder.worker import serve
from deployments.engines.arrays import load_arrays
from deployments.engines.datatypes import Array
from deployments.engines.failures import told_by
from deployments.engines.onnx import decode_text
from deployments.engines.tokenizer import tokenizer_of

CALIBRATION_BATCH = 32
# The first whose QuantizeLinear knows an axis, as scales per channel need.
AXES_OPSET = 13
# Dynamic int8 of convolutions is several times slower than float.
DYNAMIC_OPERATORS = ["MatMul", "Gemm"]
# Probabilities in steps of 1/256 would make every unlikely class impossible.
STATIC_OPERATORS = sorted(set(QDQRegistry) - {"Softmax", "Sigmoid"})


class CalibrationRows(CalibrationDataReader):  # type: ignore[misc]
    """The user's rows, some at a time, as the graph reads them."""

    def __init__(self, file: str, model: onnx.ModelProto) -> None:
        rows = load_arrays(Path(file))
        self._rows = {name: decode_text(value) if value.dtype == np.object_ else value for name, value in rows.items()}
        metadata = {item.key: item.value for item in model.metadata_props}
        self._tokenizer = tokenizer_of(metadata, self._rows.keys(), where=file)
        self._batches = self._cut()

    def get_next(self) -> dict[str, Array] | None:
        """The next batch, or None at the end."""
        return next(self._batches, None)

    def _cut(self) -> Iterator[dict[str, Array]]:
        count = len(next(iter(self._rows.values())))
        for start in range(0, count, CALIBRATION_BATCH):
            batch = {name: value[start : start + CALIBRATION_BATCH] for name, value in self._rows.items()}
            if self._tokenizer is None:
                yield batch
            else:
                yield from (feed for _, feed in self._tokenizer.pieces(batch[self._tokenizer.settings.input]))


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: variants, each {methods, source, target}, and rows (.npz) to calibrate on. Answers by target: "" or why not made."""
    made: dict[str, str] = {}
    for variant in job["variants"]:
        source, target = Path(variant["source"]), Path(variant["target"])
        try:
            for turn, method in enumerate(variant["methods"]):
                between = target.with_suffix(f".{turn}.onnx")
                METHODS[method](source, between, job["rows"])
                source = between
            source.rename(target)
            made[variant["target"]] = ""
        except Exception as error:  # noqa: BLE001  these tools raise whatever they like, and one variant's failure is not another's
            sys.stderr.write(trace_of(error))  # to the build's log
            made[variant["target"]] = told_by(error)
    return {"made": made}


def optimise(source: Path, target: Path, rows: str = "") -> None:
    """Simplifies the graph offline. The levels above fuse for the CPU alone, and would keep those operators from a GPU;
    onnxruntime does so at each load anyway, for what it loads onto."""
    del rows
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def dynamic_int8(source: Path, target: Path, rows: str) -> None:
    """Weights int8 per channel, activations quantised as they come, each row by its own scale."""
    del rows
    prepared = _prepared(source, target)
    quantize_dynamic(prepared, target, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=DYNAMIC_OPERATORS)
    prepared.unlink()
    model = onnx.load(target)
    scale_by_row(model)
    onnx.save(model, target)


def static_int8(source: Path, target: Path, rows: str) -> None:
    """Weights and activations int8, with ranges seen on the calibration rows."""
    prepared = _prepared(source, target)
    quantize_static(
        prepared,
        target,
        CalibrationRows(rows, onnx.load(source)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=STATIC_OPERATORS,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    prepared.unlink()


def half(source: Path, target: Path, rows: str) -> None:
    """Weights and arithmetic fp16; inputs and outputs stay as they are."""
    del rows
    model = onnx.load(source)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # an exporter's notes on its source, a small model's half
    onnx.save(convert_float_to_float16(model, keep_io_types=True), target)


def _prepared(source: Path, target: Path) -> Path:
    prepared = target.with_suffix(".prepared.onnx")
    model = onnx.load(source)
    if any(one.domain in ("", "ai.onnx") and one.version < AXES_OPSET for one in model.opset_import):
        onnx.save(onnx.version_converter.convert_version(model, AXES_OPSET), prepared)
        source = prepared
    # Its sums over axes of any length come to nothing where an exporter cuts a table to a text's length.
    quant_pre_process(source, prepared, skip_symbolic_shape=any(_any_length(item) for item in model.graph.input))
    return prepared


def _any_length(item: onnx.ValueInfoProto) -> bool:
    """Whether another axis than the rows' is free."""
    return any(not axis.HasField("dim_value") for axis in item.type.tensor_type.shape.dim[1:])


METHODS: dict[str, Callable[[Path, Path, str], None]] = {
    "optimised": optimise,
    "int8-dynamic": dynamic_int8,
    "int8-static": static_int8,
    "fp16": half,
}


if __name__ == "__main__":
    serve(step)
