"""ONNX files as they come: outputs that can't be served, constants, classes with any labels, declared shapes, links, versions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.datasets
import pytest
from onnx import TensorProto, helper, numpy_helper

from cluster.errors import BadInput
from deployments.builder.report import IMPORTED
from tests.support.builds import answer, refused, run

pytestmark = pytest.mark.usefixtures("builds_here")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Value = onnx.ValueInfoProto


def tensor(name: str, datatype: int, *shape: Any) -> Value:
    return helper.make_tensor_value_info(name, datatype, list(shape))


def save(
    file: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[Value],
    outputs: list[Value],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    ir: int = 8,
    domain: str = "",
) -> onnx.ModelProto:
    held = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph(nodes, "test", inputs, outputs, held), opset_imports=opsets, ir_version=ir)
    onnx.save(model, file)
    return model


def section(**more: Any) -> dict[str, Any]:
    return {"source": {"onnx": "m.onnx"}, "optimise": False, **more}


def test_onnxruntimes_own_iris_model_builds_with_its_class_and_names_zipmap_where_the_maps_are_wanted(tmp_path: Path) -> None:
    file = Path(onnxruntime.datasets.get_example("logreg_iris.onnx"))
    model = onnx.load(file)
    name, label = model.graph.input[0].name, model.graph.output[0].name
    (tmp_path / "m.onnx").write_bytes(file.read_bytes())  # made for three rows at a time
    error = refused(tmp_path, section(), "a sequence of maps, which can't be served")
    assert "zipmap" in error.remedy
    assert label in error.remedy
    from sklearn.datasets import load_iris

    iris = load_iris()
    x = iris.data[:, :2].astype(np.float32)
    np.savez(tmp_path / "rows.npz", **{name: x, "kind": iris.target})
    built = run(tmp_path, section(outputs=[label], evaluate={"data": "rows.npz", "label": "kind"}))
    quality = built.report.variant(IMPORTED).quality
    assert quality is not None
    session = onnxruntime.InferenceSession(str(file))
    theirs = np.concatenate([session.run([label], {name: x[i : i + 3]})[0] for i in range(0, 150, 3)])
    assert quality.accuracy == pytest.approx(float((theirs == iris.target).mean()))
    assert answer(built, **{name: x})[label].tolist() == theirs.tolist()
    assert answer(built, **{name: x[:1]})[label].tolist() == theirs[:1].tolist()


def test_outputs_leave_out_a_scalar_and_a_fixed_batch_of_1(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [tensor("total", FLOAT), tensor("label", INT64, 1), tensor("y", FLOAT, "n", 2)]
    save(tmp_path / "m.onnx", nodes, [tensor("x", FLOAT, "n", 2)], outputs)
    assert "outputs: [label, y]" in refused(tmp_path, section(), "output total is one value for all rows").remedy
    found = answer(run(tmp_path, section(outputs=["y"])), x=[[1, 2]])
    assert {name: value.tolist() for name, value in found.items()} == {"y": [[1, 2]]}
    # onnxmltools writes LightGBM's label so, and gives one for each row all the same.
    found = answer(run(tmp_path, section(outputs=["label", "y"])), x=[[1, 2], [3, 1], [0, 1]])
    assert found["label"].tolist() == [1, 0, 1]


def test_a_batch_that_the_graph_insists_on_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    x, y = [tensor("x", FLOAT, 4, 2)], [tensor("y", FLOAT, 4, 2, 1)]
    save(tmp_path / "m.onnx", nodes, x, y, {"shape": np.array([4, 2, 1], np.int64)})
    refused(tmp_path, section(), r"m.onnx: tensor y \[4, 2, 1\] has a fixed batch of 4")


def test_a_scalar_input_becomes_a_constant_of_the_version(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["sr"], ["rate"], to=FLOAT), helper.make_node("Div", ["x", "rate"], ["y"])]
    save(tmp_path / "m.onnx", nodes, [tensor("x", FLOAT, "n", 1), tensor("sr", INT64)], [tensor("y", FLOAT, "n", 1)])
    assert "constants: {sr: VALUE}" in refused(tmp_path, section(), "input sr is one value for all rows").remedy
    built = run(tmp_path, section(constants={"sr": 16000}))
    assert answer(built, x=[[8000]])["y"].tolist() == [[0.5]]
    assert built.report.source["constants"] == {"sr": 16000}
    with pytest.raises(BadInput, match="no input rate; it has x, sr"):
        run(tmp_path, section(constants={"rate": 1}))
    with pytest.raises(BadInput, match=r"sr has shape \[2\]"):
        run(tmp_path, section(constants={"sr": [1, 2]}))


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([2, "n", "m"], r"state \[2, n, m\] has its rows along axis 1"),
        ([2, 3], "first axis of 2, which is no batch"),
        ([1, 3], "fixed batch of 1"),
    ],
)
def test_another_fixed_axis_is_not_called_the_batch(tmp_path: Path, shape: list[Any], says: str) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    save(tmp_path / "m.onnx", nodes, [tensor("x", FLOAT, "n", 3), tensor("state", FLOAT, *shape)], [tensor("y", FLOAT, "n", 3)])
    refused(tmp_path, section(), says)


@pytest.mark.parametrize("kind", ["one and two", "text"])
def test_accuracy_is_of_the_class_whatever_its_labels(tmp_path: Path, kind: str) -> None:
    names = np.array([1, 2]) if kind == "one and two" else np.array(["no", "yes"])
    keys = {"classlabels_ints": [1, 2]} if kind == "one and two" else {"classlabels_strings": ["no", "yes"]}
    datatype = INT64 if kind == "one and two" else TensorProto.STRING
    classifier = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "p"],
        domain="ai.onnx.ml",
        coefficients=[-1.0, 1.0],
        intercepts=[0.0, 0.0],
        post_transform="SOFTMAX",
        **keys,
    )
    save(
        tmp_path / "m.onnx",
        [classifier],
        [tensor("x", FLOAT, "n", 1)],
        [tensor("label", datatype, "n"), tensor("p", FLOAT, "n", 2)],
        domain="ai.onnx.ml",
    )
    x = np.array([[-2], [-1], [1], [2]], np.float32)
    np.savez(tmp_path / "rows.npz", x=x, label=names[[0, 1, 1, 1]])
    built = run(tmp_path, section(evaluate={"data": "rows.npz", "label": "label"}))
    quality = built.report.variant(IMPORTED).quality
    assert quality is not None
    assert quality.accuracy == 0.75
    p = 1 / (1 + np.exp(-2 * np.array([2, -1, 1, 2])))  # of the label of each row
    assert quality.cross_entropy == pytest.approx(float(-np.log(p).mean()), rel=1e-5)
    assert answer(built, x=x)["label"].tolist() == ([1, 1, 2, 2] if kind == "one and two" else [b"no", b"no", b"yes", b"yes"])
    np.savez(tmp_path / "rows.npz", x=x, label=np.array(["a", "b", "a", "b"]) if kind == "one and two" else np.arange(4))
    with pytest.raises(BadInput, match=r"the model's classes \(output label\) are"):
        run(tmp_path, section(evaluate={"data": "rows.npz", "label": "label"}))


def test_declared_shapes_stand_where_the_file_leaves_axes_free(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    save(tmp_path / "m.onnx", nodes, [tensor("x", FLOAT, "n", "c", "h", "w")], [tensor("y", FLOAT, "n", "c")])
    built = run(tmp_path, section(inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 3, 16, 8]}]))
    assert built.artifact is not None
    assert built.artifact.manifest.signature.inputs[0].shape == (-1, 3, 16, 8)
    with np.load(Path(built.artifact.uri) / "samples.npz") as samples:
        assert samples["in.x"].shape == (8, 3, 16, 8)


def test_trial_integers_come_from_the_declared_range(tmp_path: Path) -> None:
    table = np.arange(200, dtype=np.float32).reshape(100, 2)
    nodes = [helper.make_node("Gather", ["table", "place"], ["y"])]
    save(tmp_path / "m.onnx", nodes, [tensor("place", INT64, "n")], [tensor("y", FLOAT, "n", 2)], {"table": table})
    spec = {"name": "place", "datatype": "INT64", "shape": [-1], "range": [90, 99]}
    built = run(tmp_path, section(inputs=[spec]))
    assert built.artifact is not None
    with np.load(Path(built.artifact.uri) / "samples.npz") as samples:
        assert 90 <= samples["in.place"].min() <= samples["in.place"].max() <= 99
    assert "range" not in (Path(built.artifact.uri) / "manifest.json").read_text()
    with pytest.raises(BadInput, match="fails on the rows"):
        run(tmp_path, section(inputs=[{**spec, "range": [100, 200]}]))


@pytest.mark.parametrize("how", ["symbolic", "hard"])
def test_external_data_behind_links_builds_as_a_download_cache_keeps_it(tmp_path: Path, how: str) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    weights = np.arange(4096, dtype=np.float32).reshape(1, 4096)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = save(blobs / "m.onnx", nodes, [tensor("x", FLOAT, "n", 1)], [tensor("y", FLOAT, "n", 4096)], {"w": weights})
    onnx.save(model, blobs / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=1024)
    for name, blob in (("m.onnx", "aa"), ("m.onnx.data", "bb")):
        (blobs / name).rename(blobs / blob)
        link = (snapshot / name).symlink_to if how == "symbolic" else lambda to, name=name: os.link(to, snapshot / name)
        link(blobs / blob)
    built = run(tmp_path, {"source": {"onnx": "snapshots/abc/m.onnx"}, "optimise": False})
    np.testing.assert_array_equal(answer(built, x=[[2]])["y"], 2 * weights)


def test_external_data_that_leads_elsewhere_is_refused_with_the_way_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = np.zeros((1, 4096), np.float32)
    model = save(tmp_path / "m.onnx", nodes, [tensor("x", FLOAT, "n", 1)], [tensor("y", FLOAT, "n", 4096)], {"w": weights})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024)
    elsewhere = tmp_path.parent / "elsewhere"
    (tmp_path / "m.data").rename(elsewhere)
    (tmp_path / "m.data").symlink_to(elsewhere)
    assert "cp -rL" in refused(tmp_path, section(), "is a link to another folder").remedy


def with_its_weights_outside(folder: Path, location: str) -> np.ndarray:
    """m.onnx in `folder`, whose large weights are told to lie at `location`, and are in m.data; a small one lies there too."""
    weights, small = np.arange(90_000, dtype=np.float32).reshape(300, 300), np.full((1, 300), 2, np.float32)
    nodes = [helper.make_node("Mul", ["x", "two"], ["doubled"]), helper.make_node("MatMul", ["doubled", "w"], ["y"])]
    shapes = [tensor("x", FLOAT, "n", 300)], [tensor("y", FLOAT, "n", 300)]
    model = save(folder / "m.onnx", nodes, *shapes, {"w": weights, "two": small})
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024)
    named = onnx.load(folder / "m.onnx", load_external_data=False)
    for one in named.graph.initializer:
        for entry in one.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (folder / "m.onnx").write_bytes(named.SerializeToString())
    return weights


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file could hold no more than 100 kB, instead of 2 GB."""
    monkeypatch.setattr("deployments.builder.sources.from_onnx.LARGEST_BYTES", 100_000)


@pytest.mark.usefixtures("small_files")
def test_what_is_more_than_a_file_can_hold_keeps_its_large_weights_beside_it(tmp_path: Path) -> None:
    weights = with_its_weights_outside(tmp_path, "./m.data")
    built = run(tmp_path, {"source": {"onnx": "m.onnx"}})
    np.testing.assert_allclose(answer(built, x=np.ones((2, 300)))["y"], np.full((2, 300), 2) @ weights, rtol=1e-5)
    assert built.artifact is not None
    sizes = {entry.path: entry.size_bytes for entry in built.artifact.manifest.files}
    assert sizes["model.onnx"] < weights.nbytes < sizes["model.onnx.data"]
    assert built.report.variants[0].size_bytes == sizes["model.onnx"] + sizes["model.onnx.data"]


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("where", ["../m.data", "absolute", "none.data"])
def test_weights_outside_the_models_folder_are_not_built_from(tmp_path: Path, where: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    with_its_weights_outside(project, str(tmp_path / "m.data") if where == "absolute" else where)
    (project / "m.data").rename(tmp_path / "m.data")
    refused(project, {"source": {"onnx": "m.onnx"}}, "is no whole ONNX model")


def test_what_onnxruntime_does_not_have_is_named(tmp_path: Path) -> None:
    x, y = [tensor("x", FLOAT, "n", 2)], [tensor("y", FLOAT, "n", 2)]
    same = [helper.make_node("Identity", ["x"], ["y"])]
    save(tmp_path / "m.onnx", same, x, y, ir=99)
    refused(tmp_path, section(), "has ONNX's IR version 99; onnxruntime .* here reads")
    save(tmp_path / "m.onnx", same, x, y, opset=99)
    refused(tmp_path, section(), "uses opset 99; onnxruntime .* here knows")
    save(tmp_path / "m.onnx", [helper.make_node("Fancy", ["x"], ["y"], domain="com.acme")], x, y, domain="com.acme")
    refused(tmp_path, section(), r"uses the operator com\.acme\.Fancy, which onnxruntime does not have")


def test_an_axis_of_minus_1_is_free_as_some_converters_write_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2], keepdims=0)]
    save(tmp_path / "m.onnx", nodes, [tensor("x", FLOAT, -1, 3, -1)], [tensor("y", FLOAT, -1, 3)])
    built = run(tmp_path, section())
    assert built.artifact is not None
    assert built.artifact.manifest.signature.inputs[0].shape == (-1, 3, -1)
    assert answer(built, x=np.ones((2, 3, 5)))["y"].tolist() == [[1.0] * 3] * 2
