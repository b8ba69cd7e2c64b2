"""Builds of real networks, each in its real framework; small, so that they take seconds."""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from cluster.errors import BadInput, HeadraceError, NoCapacity, NotFound
from deployments.builder.pipeline import Built, build
from deployments.builder.report import IMPORTED
from deployments.builder.spec import BuildSpec
from deployments.engines.load import load_engine
from tests.support.small_disk import mounted

TENSORFLOW = Path(__file__).parent.parent / "fixtures" / "tensorflow"
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.first = nn.Linear(64, hidden)
        self.last = nn.Linear(hidden, 10)

    def forward(self, image):
        return torch.softmax(self.last(torch.relu(self.first(image))), dim=1)

class Odd(Net):
    def forward(self, image):
        return torch.special.airy_ai(super().forward(image))

def fit(out, seed):
    torch.manual_seed(seed)
    torch.save(Net().state_dict(), out)
    return [3.0, 2.0]
"""


class Net(nn.Module):
    """The same network, to train it here."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.last = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.last(torch.relu(self.first(image))), dim=1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained network, its code and its rows."""
    folder = tmp_path_factory.mktemp("project")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = load_digits()
    image, label = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    network = Net()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.nll_loss(torch.log(network(torch.from_numpy(image[300:]))), torch.from_numpy(label[300:])).backward()
        optimiser.step()
    (folder / "net.py").write_text(NETWORK)
    torch.save(network.state_dict(), folder / "model.pth")
    np.savez(folder / "test.npz", image=image[:300], label=label[:300])
    np.savez(folder / "train.npz", image=image[300:], label=label[300:])
    free = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(2, 64),), dynamic_shapes=free), folder / "model.pt2")
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(2, 64),)), folder / "fixed.pt2")
    program = torch.onnx.export(
        network, (torch.zeros(2, 64),), dynamo=True, verbose=False, input_names=["image"], dynamic_shapes=({0: "batch"},)
    )
    program.save(folder / "model.onnx", external_data=True)
    return folder


PYTORCH = {"pytorch": {"state_dict": "model.pth", "class": "net:Net"}}
INPUTS = [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
EVALUATE = {"data": "test.npz", "label": "label"}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports the source in this process, where torch is loaded already: which process refuses it does not matter."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # read when keras is first imported
    monkeypatch.setattr(
        "deployments.builder.sources.importing.run_worker",
        lambda step, job, **_: importlib.import_module(f"deployments.builder.{step}").step(job),
    )


def run(project: Path, root: Path, section: Mapping[str, Any]) -> Built:
    spec = BuildSpec.model_validate(section)
    return build(spec, model="digits", base=project, root=root / "artifacts", log=root / "log", progress=lambda _: None)


def refuse(
    project: Path, root: Path, section: Mapping[str, Any], says: str, kind: type[HeadraceError] = BadInput
) -> HeadraceError:
    """The build fails with that error, and leaves no artifact."""
    with pytest.raises(kind, match=says) as caught:
        run(project, root, section)
    assert [path for path in root.rglob("*") if path.name != "log" and path.is_file()] == []
    return caught.value


def test_auto_keeps_a_smaller_and_faster_variant_that_answers_as_well(project: Path, tmp_path: Path) -> None:
    built = run(
        project,
        tmp_path,
        {
            "source": PYTORCH,
            "inputs": INPUTS,
            "evaluate": EVALUATE,
            "compress": {"method": "auto", "data": "train.npz", "label": "label"},
            "gate": {"max_accuracy_drop": 0.03, "min_agreement": 0.95},
        },
    )
    report, artifact = built.report, built.artifact
    assert artifact is not None
    assert report.parity < 1e-5
    imported = report.variant(IMPORTED)
    assert imported.quality is not None
    assert imported.quality.accuracy is not None
    assert imported.quality.accuracy > 0.9
    names = {one.name for one in report.variants if not one.skipped}
    assert {"optimised", "int8-dynamic", "int8-static", "pruned-50", "pruned-75", "pruned-50+int8-dynamic"} <= names
    assert report.variant("int8-dynamic").size_bytes < 0.5 * imported.size_bytes
    assert report.variant("pruned-50").size_bytes < 0.65 * imported.size_bytes
    losses = next(step["losses"] for step in report.variant("pruned-50").steps if step["step"] == "prune")
    assert losses[-1] < losses[0]
    kept = report.variant(str(report.chosen))
    assert kept.broken == ()
    assert kept.speedup == max(one.speedup for one in report.variants if not one.broken and not one.skipped)
    engine = load_engine(Path(artifact.uri))
    image = np.load(project / "test.npz")["image"]
    assert engine.score({"image": image})[engine.signature.outputs[0].name].shape == (300, 10)
    assert (Path(artifact.uri) / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("source", [{"pt2": "model.pt2"}, {"onnx": "model.onnx"}], ids=["pt2", "onnx with external data"])
def test_other_sources_answer_as_their_own_framework(project: Path, tmp_path: Path, source: dict[str, Any]) -> None:
    built = run(project, tmp_path, {"source": source, "evaluate": EVALUATE})
    assert built.artifact is not None
    assert built.report.parity < 1e-5
    assert load_engine(Path(built.artifact.uri)).signature.inputs[0].name == "image"


@pytest.mark.proof
def test_a_file_of_real_tensorflow_answers_as_tensorflow_did(tmp_path: Path) -> None:
    answers_as_tensorflow_did("mlp.h5", tmp_path)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["mlp.keras", "cnn.h5", "cnn.keras"])
def test_other_files_of_real_tensorflow_do_so_too(tmp_path: Path, name: str) -> None:
    answers_as_tensorflow_did(name, tmp_path)


def answers_as_tensorflow_did(name: str, tmp_path: Path) -> None:
    section = {"source": {"keras": name}, "outputs": ["probabilities"], "evaluate": {"data": "expected.npz", "label": "label"}}
    built = run(TENSORFLOW, tmp_path, section)
    assert built.artifact is not None
    with np.load(TENSORFLOW / "expected.npz") as expected:
        answer = load_engine(Path(built.artifact.uri)).score({"image": expected["image"]})["probabilities"]
        np.testing.assert_allclose(answer, expected[name.partition(".")[0]], atol=1e-5)


def test_without_tensorflow_a_saved_model_names_the_extra(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow") is not None:
        pytest.skip("tensorflow is installed")
    error = refuse(TENSORFLOW, tmp_path, {"source": {"saved_model": "saved_model"}}, "needs tensorflow")
    assert "headrace[tensorflow]" in error.remedy


def test_fp16_halves_the_size_and_keeps_inputs_and_outputs(project: Path, tmp_path: Path) -> None:
    built = run(project, tmp_path, {"source": {"onnx": "model.onnx"}, "evaluate": EVALUATE, "compress": "fp16"})
    assert built.artifact is not None
    assert built.report.chosen == "fp16"
    imported, half = built.report.variant(IMPORTED), built.report.variant("fp16")
    assert half.size_bytes < 0.6 * imported.size_bytes
    assert half.quality is not None
    assert half.quality.agreement >= 0.98
    assert 0 < half.quality.max_difference < 0.01
    signature = load_engine(Path(built.artifact.uri)).signature
    assert {spec.datatype.value for spec in (*signature.inputs, *signature.outputs)} == {"FP32"}
    operators = [node.op_type for node in onnx.load(Path(built.artifact.uri) / "model.onnx").graph.node]
    assert operators.count("Cast") == 2, "arithmetic must be fp16 from the input to the output"


def test_an_optimised_model_keeps_to_operators_that_a_gpu_has_too(project: Path, tmp_path: Path) -> None:
    built = run(project, tmp_path, {"source": {"onnx": "model.onnx"}, "evaluate": EVALUATE})
    assert built.artifact is not None
    assert built.report.chosen == "optimised"
    assert {node.domain for node in onnx.load(Path(built.artifact.uri) / "model.onnx").graph.node} == {""}


def test_the_torch_engine_gives_the_same_answers(project: Path, tmp_path: Path) -> None:
    built = run(project, tmp_path, {"source": {"pt2": "model.pt2"}, "engine": "torch", "evaluate": EVALUATE})
    assert built.artifact is not None
    image = np.load(project / "test.npz")["image"]
    network = Net()
    network.load_state_dict(torch.load(project / "model.pth"))
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(load_engine(Path(built.artifact.uri)).score({"image": image})["output"], expected, atol=1e-5)


def test_training_runs_first_and_is_recorded(project: Path, tmp_path: Path) -> None:
    section = {
        "train": {"function": "net:fit", "args": {"out": str(tmp_path / "new.pth")}, "seed": 3, "data": ["train.npz"]},
        "source": {"pytorch": {"state_dict": str(tmp_path / "new.pth"), "class": "net:Net"}},
        "inputs": INPUTS,
    }
    training = run(project, tmp_path, section).report.training
    assert training is not None
    assert training["losses"] == [3.0, 2.0]
    assert training["seed"] == 3
    assert len(training["data"]["train.npz"]) == 64


def test_a_version_that_breaks_its_gate_is_not_packaged(project: Path, tmp_path: Path) -> None:
    built = run(project, tmp_path, {"source": PYTORCH, "inputs": INPUTS, "evaluate": EVALUATE, "gate": {"min_accuracy": 1.0}})
    assert built.artifact is None
    assert "min_accuracy" in built.broken[0]
    assert not (tmp_path / "artifacts").exists()


class Planted:
    """Writes a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.usefixtures("in_process")
def test_a_pickle_that_would_run_code_is_refused_unrun(project: Path, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "bad.pth"
    torch.save({"first.weight": Planted(mark)}, file)
    section = {"source": {"pytorch": {"state_dict": str(file), "class": "net:Net", "code": str(project)}}, "inputs": INPUTS}
    with pytest.raises(BadInput, match="holds pickled code"):
        run(project, tmp_path / "root", section)
    assert not mark.exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("member", ["data/sample_inputs/model.pt", "data/weights/weight_0"])
def test_a_program_that_would_run_code_is_refused_unrun(project: Path, tmp_path: Path, member: str) -> None:
    mark, file, planted = tmp_path / "ran", tmp_path / "bad.pt2", io.BytesIO()
    torch.save(Planted(mark), planted)
    with zipfile.ZipFile(project / "model.pt2") as good, zipfile.ZipFile(file, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith(member):
                content = planted.getvalue()
            if name.endswith("model_weights_config.json") and "weights" in member:
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true').replace(
                    b'"use_pickle":false', b'"use_pickle":true'
                )
            bad.writestr(name, content)
    with pytest.raises(BadInput, match="not run"):
        run(project, tmp_path / "root", {"source": {"pt2": str(file)}})
    assert not mark.exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["model.pth", "model.pt2", "model.onnx"])
def test_truncated_files_are_refused(project: Path, tmp_path: Path, name: str) -> None:
    short = project / f"short-{name}"
    short.write_bytes((project / name).read_bytes()[:-200])
    kind = {"model.pt2": "pt2", "model.onnx": "onnx"}.get(name)
    source = {kind: short.name} if kind else {"pytorch": {"state_dict": short.name, "class": "net:Net"}}
    error = refuse(project, tmp_path, {"source": source, "inputs": INPUTS}, "truncated|whole")
    assert short.name in error.where


@pytest.mark.usefixtures("in_process")
def test_a_truncated_keras_file_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "in" / "short.h5"
    short.parent.mkdir()
    short.write_bytes((TENSORFLOW / "mlp.h5").read_bytes()[:5000])
    refuse(short.parent, tmp_path / "root", {"source": {"keras": short.name}}, "truncated")


@pytest.mark.usefixtures("in_process")
def test_names_and_shapes_that_do_not_match_are_listed(project: Path, tmp_path: Path) -> None:
    section = {"source": {"pytorch": {"state_dict": "model.pth", "class": "net:Net", "args": {"hidden": 32}}}, "inputs": INPUTS}
    refuse(project, tmp_path, section, r"first\.weight is \[64, 64\] in the file, \[32, 64\] in the class")


@pytest.mark.usefixtures("in_process")
def test_an_operator_that_cannot_be_exported_is_named(project: Path, tmp_path: Path) -> None:
    section = {"source": {"pytorch": {"state_dict": "model.pth", "class": "net:Odd"}}, "inputs": INPUTS}
    refuse(project, tmp_path, section, "airy_ai")


@pytest.mark.usefixtures("in_process")
def test_a_fixed_batch_is_refused(project: Path, tmp_path: Path) -> None:
    refuse(project, tmp_path, {"source": {"pt2": "fixed.pt2"}}, "fixed batch of 2")


@pytest.mark.usefixtures("in_process")
def test_calibration_rows_must_fit(project: Path, tmp_path: Path) -> None:
    section = {"source": {"onnx": "model.onnx"}, "evaluate": EVALUATE}
    np.savez(project / "wide.npz", image=np.zeros((9, 65), np.float32))
    refuse(project, tmp_path, {**section, "compress": {"method": "int8-static", "data": "wide.npz"}}, r"shape \[65\]")
    np.savez(project / "nan.npz", image=np.full((9, 64), np.nan, np.float32))
    refuse(project, tmp_path, {**section, "compress": {"method": "int8-static", "data": "nan.npz"}}, "NaN")


@pytest.mark.usefixtures("in_process")
def test_labels_must_be_classes(project: Path, tmp_path: Path) -> None:
    np.savez(project / "labels.npz", image=np.zeros((3, 64), np.float32), label=np.array([0, 10, 3]))
    section = {"source": {"onnx": "model.onnx"}, "evaluate": {"data": "labels.npz", "label": "label"}}
    refuse(project, tmp_path, section, "first is that of row 1")


def test_a_missing_file_is_named(project: Path, tmp_path: Path) -> None:
    refuse(project, tmp_path, {"source": {"onnx": "none.onnx"}}, "no such file", NotFound)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for less than the network's weights."""
    with mounted(tmp_path, "16k") as disk:
        yield disk


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_during_packaging_leaves_no_artifact(project: Path, tmp_path: Path, small_disk: Path) -> None:
    spec = BuildSpec.model_validate({"source": {"onnx": "model.onnx"}, "evaluate": EVALUATE})
    with pytest.raises(NoCapacity, match="no space left"):
        build(spec, model="digits", base=project, root=small_disk / "artifacts", log=tmp_path / "log", progress=lambda _: None)
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
