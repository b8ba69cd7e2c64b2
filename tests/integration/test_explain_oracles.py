"""Explanations of real models against what shap and captum say of them: recorded by `tests/fixtures/explain/make.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from sklearn.datasets import load_digits
from torch import nn

from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import Array
from deployments.engines.load import open_engine
from deployments.engines.port import Engine, gradients_of
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainMethod, ExplainOptions, ExplainScale, Explanation

HERE = Path(__file__).parents[1] / "fixtures" / "explain"
EXPECTED: Mapping[str, Array] = dict(np.load(HERE / "expected.npz"))
SHAPES = {"mlp": (64,), "cnn": (1, 8, 8)}
RAW = ExplainScale.RAW


def signature_of(name: str) -> Signature:
    if name == "tumours":
        return Signature(
            inputs=(TensorSpec(name="features", datatype=Datatype.FP32, shape=(-1, 10)),),
            outputs=(
                TensorSpec(name="label", datatype=Datatype.INT64, shape=(-1,)),
                TensorSpec(name="probabilities", datatype=Datatype.FP32, shape=(-1, 2)),
            ),
        )
    return Signature(
        inputs=(TensorSpec(name="image", datatype=Datatype.FP32, shape=(-1, *SHAPES[name])),),
        outputs=(TensorSpec(name="probabilities", datatype=Datatype.FP32, shape=(-1, 10)),),
    )


def engine_of(name: str) -> Engine:
    return open_engine("onnx", HERE / f"{name}.onnx", signature_of(name))


def explained(engine: Engine, name: str, options: ExplainOptions, rows: Array | None = None) -> list[Explanation]:
    field = engine.signature.inputs[0].name
    given = EXPECTED[f"{name}.rows"] if rows is None else rows
    background = Background({field: EXPECTED[f"{name}.others"]})
    return explain_rows(engine.score, {field: given}, engine.signature, background, options, gradients=gradients_of(engine))


def worth(found: list[Explanation]) -> Array:
    return np.array([next(iter(one.attributions.values())) for one in found])


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.output(torch.relu(self.hidden(image))), dim=1)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen, self.output = nn.Conv2d(1, 8, 3), nn.Linear(8 * 3 * 3, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = nn.functional.max_pool2d(torch.relu(self.seen(image)), 2)
        return torch.softmax(self.output(found.flatten(1)), dim=1)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"mlp": Mlp, "cnn": Cnn}


def program_of(name: str, folder: Path) -> Engine:
    """The same network for the torch engine, with the weights of the ONNX file."""
    graph = onnx.load(HERE / f"{name}.onnx").graph
    weights = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in graph.initializer}
    network = NETWORKS[name]()
    network.load_state_dict({key: weights[key] for key in network.state_dict()})
    some = torch.tensor(EXPECTED[f"{name}.rows"])
    program = torch.export.export(network, (some,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "model.pt2")
    return open_engine("torch", folder / "model.pt2", signature_of(name))


def test_boosted_trees_exactly_as_shap_s_tree_explainer_has_them() -> None:
    found = explained(engine_of("tumours"), "tumours", ExplainOptions(ExplainMethod.EXACT, label=1, evaluations=20_000))
    assert {one.background_rows for one in found} == {16}
    np.testing.assert_allclose(worth(found), EXPECTED["tumours.shapley"], atol=1e-4)


@pytest.mark.parametrize("name", ["tumours", "mlp", "cnn"])
def test_sampled_values_are_shap_s_within_the_errors_of_both(name: str) -> None:
    label = 1 if name == "tumours" else None
    engine = engine_of(name)
    right, theirs = EXPECTED[f"{name}.shapley"], EXPECTED.get(f"{name}.shapley.error", np.zeros(()))
    ratios = []
    for seed in range(6):  # one seed has few values, and those of a row go together
        found = explained(engine, name, ExplainOptions(ExplainMethod.SHAPLEY, label=label, seed=seed))
        ours = np.array([next(iter(one.errors.values())) for one in found])
        ratios.append(np.abs(worth(found) - right) / (np.hypot(ours, theirs) + 1e-4))
        correlation = np.corrcoef(worth(found).ravel(), right.ravel())[0, 1]
        assert float(correlation) > 0.99
        assert max(one.completeness_error for one in found) < 1e-4
        assert not any(one.too_rough for one in found)
    assert float(np.max(ratios)) < 6
    assert float(np.mean(np.array(ratios) > 2)) < 0.08, "one in twenty lies beyond two standard errors"


def test_occlusion_is_captum_s_by_the_value() -> None:
    black = {"image": np.zeros((), np.float32)}
    found = explained(engine_of("cnn"), "cnn", ExplainOptions(ExplainMethod.OCCLUSION, scale=RAW, baseline=black))
    # captum tells what a window of 2 by 2 loses, ours what each of its four values does.
    np.testing.assert_allclose(4 * worth(found), EXPECTED["cnn.occlusion"], atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_integrated_gradients_are_captum_s(name: str, tmp_path: Path) -> None:
    engine = program_of(name, tmp_path)
    black = {"image": np.zeros((), np.float32)}
    found = explained(engine, name, ExplainOptions(ExplainMethod.GRADIENTS, scale=RAW, baseline=black))
    right = EXPECTED[f"{name}.gradients"]
    # Where a slope jumps between two steps, a sum of steps is off: captum's too, and both add up to what they are off.
    np.testing.assert_allclose(worth(found), right, atol=0.02)
    assert float(np.corrcoef(worth(found).ravel(), right.ravel())[0, 1]) > 0.999
    assert max(one.completeness_error for one in found) < 0.05
    picked = explained(engine, name, ExplainOptions())
    assert {one.method for one in picked} == {ExplainMethod.GRADIENTS}
    assert float(np.corrcoef(worth(picked).ravel(), EXPECTED[f"{name}.shapley"].ravel())[0, 1]) > 0.9


def test_answers_fall_faster_where_the_strongest_pixels_go_first() -> None:
    engine = engine_of("mlp")
    image, _ = load_digits(return_X_y=True)
    rows = (image[1300:1330] / 16).astype(np.float32)
    mean = EXPECTED["mlp.others"].mean(axis=0)
    random = np.random.default_rng(0)
    for method in (ExplainMethod.SHAPLEY, ExplainMethod.OCCLUSION):
        found = explained(engine, "mlp", ExplainOptions(method, evaluations=4000), rows)
        lost = {"strongest": 0.0, "random": 0.0}
        for row, one in zip(rows, found, strict=True):
            orders = {"strongest": np.argsort(-one.attributions["image"]), "random": random.permutation(64)}
            for order, places in orders.items():
                gone = np.tile(row, (33, 1))
                for step in range(1, 33):
                    gone[step:, places[step - 1]] = mean[places[step - 1]]
                shares = engine.score({"image": gone})["probabilities"][:, int(str(one.label))]
                lost[order] += float((shares[0] - shares).mean())
        assert lost["strongest"] > 3 * max(lost["random"], 0.5), method


def test_two_seeds_of_a_digit_agree_within_what_they_say() -> None:
    engine = engine_of("mlp")
    one, two = (explained(engine, "mlp", ExplainOptions(ExplainMethod.SHAPLEY, seed=seed)) for seed in (1, 2))
    errors = [np.array([each.errors["image"] for each in found]) for found in (one, two)]
    apart = np.abs(worth(one) - worth(two)) / (np.hypot(*errors) + 1e-6)
    assert float(apart.max()) < 6
    assert float(np.mean(apart > 2)) < 0.08
    assert float(apart.max()) > 0
