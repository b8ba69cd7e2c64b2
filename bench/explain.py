"""`.venv-explainers/bin/python -m bench.explain [--quick] [--json]`: explanations a second, beside shap's on the same session.

Boosted trees of 10 features, a network of digits of 64, one of random weights of 784, in onnxruntime with one thread; Shapley
values of the log-odds of a row's class against the same background rows. shap's PermutationExplainer runs as it does by default,
ten permutations. Ours gets the fewest evaluations with which it is no further from the values that both come near in the end;
then both take turns, pair by pair. `make explainers` makes the venv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import shap
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from bench.figures import Figure, show
from bench.paired import paired
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainMethod, ExplainOptions
from deployments.explain.shapley.exact import MOST_EXACT

HIDDEN, CLASSES, PERMUTATIONS = 64, 10, 10
FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "explain"
ROWS = 4
# Rounds of what is taken for the truth where exact values cost too much: its own error is small beside what is measured.
LONG = 60
SEEDS = 6


@dataclass(frozen=True)
class Task:
    """A network of `width` features, rows to explain and the background, float32 [n, width]."""

    width: int
    classes: int
    input: str
    session: onnxruntime.InferenceSession
    rows: np.ndarray
    others: np.ndarray

    def score(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"probabilities": self.session.run(["probabilities"], {self.input: tensors["x"]})[0]}

    @property
    def once(self) -> int:
        """What one permutation, forward and back, costs against the whole background."""
        return 2 * self.width * len(self.others)

    def ours(self, evaluations: int, seed: int = 0) -> np.ndarray:
        return self._found(ExplainOptions(ExplainMethod.SHAPLEY, evaluations=evaluations, seed=seed))

    def _found(self, options: ExplainOptions) -> np.ndarray:
        signature = Signature(
            inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, self.width)),),
            outputs=(TensorSpec(name="probabilities", datatype=Datatype.FP32, shape=(-1, self.classes)),),
        )
        found = explain_rows(self.score, {"x": self.rows}, signature, Background({"x": self.others}), options)
        return np.array([one.attributions["x"] for one in found])

    def right(self) -> np.ndarray:
        """What is taken for the truth."""
        if self.width <= MOST_EXACT:
            return self._found(ExplainOptions(ExplainMethod.EXACT, evaluations=len(self.others) << self.width))
        return self.ours(LONG * self.once, seed=99)

    def shaps(self, seed: int = 0) -> np.ndarray:
        found = []
        for row in self.rows:
            column = int(self.score({"x": row[None]})["probabilities"][0].argmax())
            masker = shap.maskers.Independent(self.others, max_samples=len(self.others))
            explainer = shap.PermutationExplainer(self._log_odds(column), masker, seed=seed)
            found.append(explainer(row[None], max_evals=PERMUTATIONS * (2 * self.width + 1), silent=True).values[0])
        return np.array(found)

    def _log_odds(self, column: int) -> Callable[[np.ndarray], np.ndarray]:
        def score(mixed: np.ndarray) -> np.ndarray:
            shares = self.score({"x": mixed.astype(np.float32, copy=False)})["probabilities"].astype(np.float64)
            others = np.delete(shares, column, axis=1).sum(axis=1)
            return np.log(np.maximum(shares[:, column], 1e-12)) - np.log(np.maximum(others, 1e-12))

        return score


def trained(name: str, width: int, classes: int) -> Task:
    """A model of tests/fixtures/explain: trained on real rows, 16 of which are the background."""
    known = np.load(FIXTURES / "expected.npz")
    session = opened((FIXTURES / f"{name}.onnx").read_bytes())
    return Task(width, classes, session.get_inputs()[0].name, session, known[f"{name}.rows"][:ROWS], known[f"{name}.others"])


def opened(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def drawn(width: int, background: int) -> Task:
    """A network of random weights, on random rows."""
    random = np.random.default_rng(width)
    constants = {
        "w1": random.normal(0, 2 / np.sqrt(width), (width, HIDDEN)),
        "b1": random.normal(0, 0.5, HIDDEN),
        "w2": random.normal(0, 2 / np.sqrt(HIDDEN), (HIDDEN, CLASSES)),
        "b2": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    rows = random.normal(size=(ROWS + background, width)).astype(np.float32)
    return Task(width, CLASSES, "x", opened(model.SerializeToString()), rows[:ROWS], rows[ROWS:])


def off(found: np.ndarray, right: np.ndarray) -> float:
    """The root mean square of what values are off, over all rows."""
    return float(np.sqrt(np.mean((found - right) ** 2)))


def enough(one: Task, right: np.ndarray, error: float) -> tuple[int, float]:
    """The fewest evaluations, a tenth more at a time from two pairs of walks on, that come as near; and how near."""
    evaluations = 4 * one.width
    while True:
        mine = float(np.mean([off(one.ours(evaluations, seed), right) for seed in range(SEEDS)]))
        if mine <= error:
            return evaluations, mine
        evaluations = evaluations * 11 // 10


def rate(one: Task, run: Callable[[], np.ndarray]) -> float:
    """Explanations a second."""
    started_s = time.perf_counter()
    run()
    return len(one.rows) / (time.perf_counter() - started_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs: two minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    screen = Console(stderr=True)
    figures: list[Figure] = []
    for one in (trained("tumours", 10, 2), trained("mlp", 64, 10), drawn(784, 2)):
        width, background = one.width, len(one.others)
        right = one.right()
        error = float(np.mean([off(one.shaps(seed), right) for seed in range(SEEDS)]))
        evaluations, mine = enough(one, right, error)
        screen.print(f"{width} features, {background} background rows: {evaluations:,} evaluations allowed, off by {mine:.2g};")
        screen.print(
            f"  shap {PERMUTATIONS * one.once:,}, off by {error:.2g}; the size of a value is {float(np.abs(right).mean()):.2g}"
        )
        pairs = [
            (rate(one, partial(one.ours, evaluations, seed)), rate(one, partial(one.shaps, seed)))
            for seed in range(6 if options.quick else 20)
        ]
        ours, theirs = zip(*pairs, strict=True)
        figures.append(paired(f"explain.shapley.{width}", ours, theirs, "explanations/s", screen))
    show(figures, as_json=options.json)


if __name__ == "__main__":
    main()
