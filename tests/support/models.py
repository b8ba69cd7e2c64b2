"""Small real ONNX artifacts, made in milliseconds and without torch: inputs `image` [n, 784], outputs `probabilities` [n, 10]."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from cluster.signature import Datatype, Signature, TensorSpec
from deployments.artifacts.manifest import Manifest
from deployments.artifacts.package import write_artifact
from deployments.artifacts.samples import Samples
from deployments.profiles.making import make_profile

INPUT = "image"
OUTPUT = "probabilities"
SIGNATURE = Signature(
    inputs=(TensorSpec(name=INPUT, datatype=Datatype.FP32, shape=(-1, 784)),),
    outputs=(TensorSpec(name=OUTPUT, datatype=Datatype.FP32, shape=(-1, 10)),),
)


def rows(count: int, seed: int = 0) -> np.ndarray:
    """`count` rows that every artifact here scores, float32 [count, 784] in 0..0.5."""
    return (np.random.default_rng(seed).random((count, 784)) / 2).astype(np.float32)


def mlp_artifact(
    root: Path | str, model: str = "digits", seed: int = 0, nudge: float = 0.0, profiled: int = 0
) -> tuple[str, str, Manifest]:
    """A 784-128-10 network with softmax; returns (uri, digest, manifest). A `nudge` makes another file with the same answers.

    It has a profile of so many `profiled` rows; 0: none.
    """
    nodes, constants = _mlp(seed, INPUT)
    constants["b2"] += np.float32(nudge)  # on every class: softmax takes it out again
    return _package(root, model, nodes, constants, profiled)


def failing_artifact(root: Path, model: str = "digits", seed: int = 0) -> tuple[str, str, Manifest]:
    """Like `mlp_artifact`, but onnxruntime fails (Gather out of range) on a batch with a row whose first feature is above 0.5."""
    nodes, constants = _mlp(seed, "calibrated")
    constants |= {
        "first": np.array([0], np.int64),
        "half": np.array(0.5, np.float32),
        "table": np.zeros(1, np.float32),
    }
    before = [
        helper.make_node("Gather", [INPUT, "first"], ["head"], axis=1),
        helper.make_node("Greater", ["head", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["offset"], axis=0),
        helper.make_node("Add", [INPUT, "offset"], ["calibrated"]),
    ]
    return _package(root, model, before + nodes, constants)


def mistaken_artifact(root: Path, model: str = "digits", seed: int = 0) -> tuple[str, str, Manifest]:
    """Like `mlp_artifact`, but it says class 0 of every row whose second feature is above 0.5."""
    nodes, constants = _mlp(seed, INPUT)
    constants |= {
        "second": np.array([1], np.int64),
        "half": np.array(0.5, np.float32),
        "zeroth": np.array([1000.0] + [0.0] * 9, np.float32),
    }
    nodes[-1] = helper.make_node("Softmax", ["mistaken"], [OUTPUT], axis=1)
    between = [
        helper.make_node("Gather", [INPUT, "second"], ["mark"], axis=1),
        helper.make_node("Greater", ["mark", "half"], ["marked"]),
        helper.make_node("Cast", ["marked"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["weight", "zeroth"], ["offset"]),
        helper.make_node("Add", ["logits", "offset"], ["mistaken"]),
    ]
    return _package(root, model, [*nodes[:-1], *between, nodes[-1]], constants)


def crashing_artifact(root: Path, model: str = "digits", seed: int = 0) -> tuple[str, str, Manifest]:
    """Like `mlp_artifact`, but its process dies (SIGFPE) of a batch with a row whose first feature is above 0.5."""
    nodes, constants = _mlp(seed, "calibrated")
    constants |= {
        "first": np.array([0], np.int64),
        "half": np.array(0.5, np.float32),
        "one": np.array(1, np.int64),
        "two": np.array(2, np.int64),
        "least": np.array(np.iinfo(np.int64).min, np.int64),
        "nothing": np.array(0, np.float32),
    }
    before = [
        helper.make_node("Gather", [INPUT, "first"], ["head"], axis=1),
        helper.make_node("Greater", ["head", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["index"], to=TensorProto.INT64),
        helper.make_node("Mul", ["index", "two"], ["doubled"]),
        helper.make_node("Sub", ["one", "doubled"], ["sign"]),
        # The least 64-bit number divided by -1 has no 64-bit answer; onnxruntime guards against 0 only.
        helper.make_node("Div", ["least", "sign"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "nothing"], ["zero"]),
        helper.make_node("Add", [INPUT, "zero"], ["calibrated"]),
    ]
    return _package(root, model, before + nodes, constants)


def slow_artifact(root: Path, model: str = "digits", seed: int = 0, rounds: int = 200) -> tuple[str, str, Manifest]:
    """Like `mlp_artifact`, after `rounds` products of one row with a 784x784 matrix: 10 to 40 ms a call, whatever the batch."""
    nodes, constants = _mlp(seed, "spun")
    constants |= {
        "rounds": np.array(rounds, np.int64),
        "go": np.array(True),
        "turn": np.eye(784, dtype=np.float32),
        "first": np.array([0], np.int64),
        "nothing": np.array(0, np.float32),
    }
    body = helper.make_graph(
        [helper.make_node("MatMul", ["state", "turn"], ["next"]), helper.make_node("Identity", ["more"], ["again"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    before = [
        helper.make_node("Gather", [INPUT, "first"], ["head"], axis=0),
        helper.make_node("Loop", ["rounds", "go", "head"], ["turned"], body=body),
        helper.make_node("Mul", ["turned", "nothing"], ["zero"]),
        helper.make_node("Add", [INPUT, "zero"], ["spun"]),
    ]
    return _package(root, model, before + nodes, constants)


TEXT_SIGNATURE = Signature(
    inputs=(TensorSpec(name="text", datatype=Datatype.BYTES, shape=(-1, 2)),),
    outputs=(TensorSpec(name="known", datatype=Datatype.FP32, shape=(-1, 2)),),
)


def text_artifact(root: Path, model: str = "words", unknown: float = 0.0) -> tuple[str, str, Manifest]:
    """Reads two words a row: gives 1 for each that is "yes", else `unknown`."""
    node = helper.make_node(
        "LabelEncoder",
        ["text"],
        ["known"],
        domain="ai.onnx.ml",
        keys_strings=["yes"],
        values_floats=[1.0],
        default_float=float(unknown),
    )
    graph = helper.make_graph(
        [node],
        "words",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch", 2])],
        [helper.make_tensor_value_info("known", TensorProto.FLOAT, ["batch", 2])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    samples = Samples(
        inputs={"text": np.array([[b"yes", b"no"]], np.object_)}, outputs={"known": np.array([[1, unknown]], np.float32)}
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(proto.SerializeToString())
        artifact = write_artifact(
            root,
            model=model,
            engine="onnx",
            signature=TEXT_SIGNATURE,
            files={"model.onnx": file},
            samples=samples,
            report={},
            source={"kind": "test"},
        )
    return artifact.uri, artifact.digest, artifact.manifest


def quoting_artifact(root: Path, model: str = "quotes") -> tuple[str, str, Manifest]:
    """Gives the number at a place of a table of two; of another place onnxruntime fails, and quotes it."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "place"], ["number"], name="/table/Gather")],
        "quotes",
        [helper.make_tensor_value_info("place", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("number", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [1.5, 2.5])],
    )
    place = TensorSpec(name="place", datatype=Datatype.INT64, shape=(-1,))
    number = TensorSpec(name="number", datatype=Datatype.FP32, shape=(-1,))
    samples = Samples(inputs={"place": np.array([0], np.int64)}, outputs={"number": np.array([1.5], np.float32)})
    return _of_graph(root, model, graph, Signature(inputs=(place,), outputs=(number,)), samples)


def doubling_artifact(root: Path, model: str = "doubles") -> tuple[str, str, Manifest]:
    """Doubles three numbers: `x` [n, 3] to `y` [n, 3], so that what it answers can be asked of it."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubles",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    x, y = (TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 3)) for name in "xy")
    ones = np.ones((1, 3), np.float32)
    return _of_graph(
        root, model, graph, Signature(inputs=(x,), outputs=(y,)), Samples(inputs={"x": ones}, outputs={"y": 2 * ones})
    )


def _of_graph(
    root: Path, model: str, graph: onnx.GraphProto, signature: Signature, samples: Samples
) -> tuple[str, str, Manifest]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
        artifact = write_artifact(
            root,
            model=model,
            engine="onnx",
            signature=signature,
            files={"model.onnx": file},
            samples=samples,
            report={},
            source={"kind": "test"},
        )
    return artifact.uri, artifact.digest, artifact.manifest


def _mlp(seed: int, source: str) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    constants = {
        "w1": random.normal(0, 0.05, (784, 128)).astype(np.float32),
        "b1": random.normal(0, 0.05, 128).astype(np.float32),
        "w2": random.normal(0, 0.2, (128, 10)).astype(np.float32),
        "b2": random.normal(0, 0.05, 10).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", [source, "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [OUTPUT], axis=1),
    ]
    return nodes, constants


def _package(
    root: Path | str, model: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], profiled: int = 0
) -> tuple[str, str, Manifest]:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 784])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto)
    image = rows(4)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run([OUTPUT], {INPUT: image})
    many = rows(profiled, seed=99)
    profile = make_profile(SIGNATURE, {INPUT: many}, {OUTPUT: session.run([OUTPUT], {INPUT: many})[0]}) if profiled else None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(proto.SerializeToString())
        artifact = write_artifact(
            root,
            model=model,
            engine="onnx",
            signature=SIGNATURE,
            files={"model.onnx": file},
            samples=Samples(inputs={INPUT: image}, outputs={OUTPUT: answer}),
            report={},
            profile=profile,
            source={"kind": "test"},
        )
    return artifact.uri, artifact.digest, artifact.manifest
