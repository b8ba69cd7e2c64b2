"""Worker: a CatBoost model file (cbm or JSON) over numbers -> model.onnx and CatBoost's own answers.

CatBoost's own export gives the trees; what follows them is written here. Its ZipMap can't be served, of two classes onnxruntime
says 0 and 1 whatever they are called, and truths or fractions as classes, thresholds of one's own, several numbers and objectives
with an exponent are not exported, or come out as something else.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cluster.errors import BadInput
from cluster.signature import Datatype
from deployments.builder.sources.tables import tabular
from deployments.builder.sources.tables.sandbox import enclose
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
RAW = "catboost.raw"
REMEDY = "save it with model.save_model('model.cbm')"
# Features that are no numbers, by what CatBoost calls them.
OTHER_FEATURES: dict[str, Callable[[Any], list[int]]] = {
    "categorical": catboost.CatBoost.get_cat_feature_indices,
    "text": catboost.CatBoost.get_text_feature_indices,
    "embedding": catboost.CatBoost.get_embedding_feature_indices,
}


class Head(Enum):
    """What follows the sums of the leaves."""

    TWO_CLASSES = "one sum, by the logistic function"
    CLASSES = "a sum each class, by softmax"
    ONE_VS_ALL = "a sum each class, by the logistic function"
    MANY_LABELS = "several answers that are yes or no"
    NUMBER = "the sums themselves"
    EXPONENT = "e to the power of the sum"


HEADS = {
    "MultiClass": Head.CLASSES,
    "MultiClassOneVsAll": Head.ONE_VS_ALL,
    "MultiLogloss": Head.MANY_LABELS,
    "MultiCrossEntropy": Head.MANY_LABELS,
    "Poisson": Head.EXPONENT,
    "Tweedie": Head.EXPONENT,
}


@dataclass(frozen=True, slots=True)
class Boosted:
    """A CatBoost model: its objective's head, its classes in order (none of a regressor), how many sums its leaves hold."""

    model: catboost.CatBoost
    head: Head
    classes: Array
    sums: int


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, inputs, outputs, evaluate, task, target and expected (files to write)."""
    file = Path(job["file"])
    model = load(file)
    refuse_other_features(model, file)
    boosted = describe(model, file)
    found = tabular.columns(job, len(model.feature_names_), feature_names(model), (Datatype.FP32,))
    thresholds = tuple((feature, float(value)) for feature, borders in model.get_borders().items() for value in borders)

    def score(rows: Mapping[str, Array]) -> Mapping[str, Array]:
        return tabular.as_answers(_own_answers(boosted, found.matrix(rows)))

    graph = _graph(boosted, _trees(boosted, file), found.width)
    tabular.merge_columns(graph, found)
    return tabular.finish(
        tabular.Fitted(graph, score, f"catboost {catboost.__version__}", thresholds), found.inputs, found.how, job
    )


def load(file: Path) -> catboost.CatBoost:
    """Reads a cbm or JSON file. Raises BadInput."""
    model = catboost.CatBoost()
    try:
        model.load_model(str(file), format=_format(file))
    except (catboost.CatBoostError, ValueError, TypeError) as error:
        raise BadInput(f"is no CatBoost model: {_first(error)}", where=str(file), remedy=REMEDY) from error
    return model


def _format(file: Path) -> str:
    """As the file begins, whatever it is called."""
    with file.open("rb") as opened:
        return "json" if opened.read(1) == b"{" else "cbm"


def refuse_other_features(model: catboost.CatBoost, file: Path) -> None:
    """Raises BadInput that names the features which ONNX has no form for."""
    for kind, places in OTHER_FEATURES.items():
        named = [model.feature_names_[place] for place in places(model)]
        if named:
            raise BadInput(
                f"has {kind} features ({', '.join(named)}), for which CatBoost's export to ONNX has no form",
                where=str(file),
                remedy="train it on numbers: encode those columns first, as a scikit-learn Pipeline does (source: sklearn)",
            )


def feature_names(model: catboost.CatBoost) -> list[str]:
    """The columns' names; none where CatBoost made them up."""
    names = [str(name) for name in model.feature_names_]
    return [] if names == [str(place) for place in range(len(names))] else names


def describe(model: catboost.CatBoost, file: Path) -> Boosted:
    """Which answers it gives. Raises BadInput for an objective whose answers are none of these."""
    parameters = json.loads(model.get_metadata().get("params", "{}"))
    objective = str(parameters.get("loss_function", {}).get("type", ""))
    if objective == "RMSEWithUncertainty":
        raise BadInput(
            f"was trained for {objective}, which has no form in ONNX", where=str(file), remedy="train it with RMSE or Quantile"
        )
    classes = np.asarray(model.classes_)
    if not classes.size and objective in ("Logloss", "CrossEntropy"):
        classes = np.array([0, 1])
    head = HEADS.get(objective, Head.TWO_CLASSES if classes.size else Head.NUMBER)
    bias = np.ravel(model.get_scale_and_bias()[1])
    return Boosted(model, head, classes, len(bias))


def _own_answers(boosted: Boosted, matrix: Array) -> dict[str, Any]:
    model, head = boosted.model, boosted.head
    if head is Head.NUMBER or head is Head.EXPONENT:
        kind = "RawFormulaVal" if head is Head.NUMBER else "Exponent"
        return {tabular.PREDICTION: np.asarray(model.predict(matrix, prediction_type=kind)).reshape(len(matrix), -1)}
    probabilities = np.asarray(model.predict(matrix, prediction_type="Probability")).reshape(len(matrix), -1)
    if head is Head.MANY_LABELS:
        return {tabular.PROBABILITIES: probabilities}
    # CatBoost writes truths as text; as places they are 0 and 1.
    label = np.ravel(model.predict(matrix, prediction_type="Class"))
    if boosted.classes.dtype == np.bool_:
        label = np.array([str(one) == "True" for one in label.tolist()])
    return {tabular.LABEL: label.astype(_shown(boosted.classes).dtype), tabular.PROBABILITIES: probabilities}


def _shown(classes: Array) -> Array:
    """The classes as a version names them: whole numbers or text. Fractions stand as text, since a class is no quantity."""
    if classes.dtype.kind in "bui" or (classes.dtype.kind == "f" and (classes == classes.astype(np.int64)).all()):
        return classes.astype(np.int64)
    return classes.astype(str).astype(object)


def _trees(boosted: Boosted, file: Path) -> dict[str, Any]:
    """The attributes of the trees' node, for a TreeEnsembleRegressor with a target for each sum. Raises BadInput."""
    # Another copy, since what the export refuses is taken out of it here and put back below.
    copy = load(file)
    scale, bias = copy.get_scale_and_bias()
    copy.set_scale_and_bias(1.0, [0.0] * boosted.sums if boosted.sums > 1 else 0.0)
    count = max(2, boosted.sums)
    if boosted.head is not Head.NUMBER or boosted.sums > 1:
        # The export refuses truths and fractions as classes, and leaves out the classes of several numbers; places it takes.
        places = {"class_names": list(range(count)), "class_to_label": list(range(count))}
        metadata = copy.get_metadata()
        metadata["class_params"] = json.dumps({"classes_count": 0, **places, "class_label_type": "Integer"})
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "trees.onnx"
        try:
            copy.save_model(str(target), format="onnx")
        except catboost.CatBoostError as error:
            if "non symmetric" in str(error):
                raise BadInput(
                    "its trees are not symmetric (grow_policy Lossguide or Depthwise), for which CatBoost's export has no form",
                    where=str(file),
                    remedy="train it with grow_policy='SymmetricTree'",
                ) from error
            raise tabular.needs(file, error, "train it with features and an objective that CatBoost exports") from error
        node = next(one for one in onnx.load(target).graph.node if one.op_type.startswith("TreeEnsemble"))
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    trees = {name: value for name, value in found.items() if name.startswith("nodes_")}
    kind = "target" if "target_ids" in found else "class"
    # Of two classes the export writes the sum with both signs: the second's is the sum itself.
    twice = kind == "class" and boosted.sums == 1
    kept = [place for place, one in enumerate(found[f"{kind}_ids"]) if not twice or one == 1]
    columns = {name: [found[f"{kind}_{name}"][place] for place in kept] for name in ("ids", "nodeids", "treeids", "weights")}
    columns["ids"] = [0] * len(kept) if twice else columns["ids"]
    columns["weights"] = [scale * one for one in columns["weights"]]
    trees |= {f"target_{name}": value for name, value in columns.items()}
    return trees | {"base_values": np.ravel(bias).astype(float).tolist()}


def _graph(boosted: Boosted, trees: dict[str, Any], width: int) -> onnx.ModelProto:
    """Trees, bias and the objective's head, over one matrix."""
    raw = helper.make_node(
        "TreeEnsembleRegressor",
        [tabular.MATRIX],
        [RAW],
        domain="ai.onnx.ml",
        n_targets=boosted.sums,
        aggregate_function="SUM",
        post_transform="NONE",
        **trees,
    )
    nodes, constants, outputs = _head(boosted)
    graph = helper.make_graph(
        [raw, *nodes],
        "catboost",
        [helper.make_tensor_value_info(tabular.MATRIX, TensorProto.FLOAT, ["batch", width])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9, producer_name="catboost")


def _head(boosted: Boosted) -> tuple[list[onnx.NodeProto], dict[str, Array], list[onnx.ValueInfoProto]]:
    def numbers(name: str, count: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count])

    if boosted.head in (Head.NUMBER, Head.EXPONENT):
        operator = "Identity" if boosted.head is Head.NUMBER else "Exp"
        return [helper.make_node(operator, [RAW], [tabular.PREDICTION])], {}, [numbers(tabular.PREDICTION, boosted.sums)]
    if boosted.head is Head.MANY_LABELS:
        return (
            [helper.make_node("Sigmoid", [RAW], [tabular.PROBABILITIES])],
            {},
            [numbers(tabular.PROBABILITIES, boosted.sums)],
        )
    shown = _shown(boosted.classes)
    constants: dict[str, Array] = {"classes": shown}
    if boosted.head is Head.TWO_CLASSES:
        constants |= {"border": np.array([_border(boosted.model)], np.float32)}
        nodes = [
            helper.make_node("Sigmoid", [RAW], ["second"]),
            helper.make_node("Neg", [RAW], ["turned"]),
            helper.make_node("Sigmoid", ["turned"], ["first"]),
            helper.make_node("Concat", ["first", "second"], [tabular.PROBABILITIES], axis=1),
            helper.make_node("Greater", [RAW, "border"], ["above"]),
            helper.make_node("Cast", ["above"], ["places"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["places", "axis"], ["place"]),
        ]
        constants["axis"] = np.array([1], np.int64)
    else:
        last: dict[str, Any] = {"axis": 1} if boosted.head is Head.CLASSES else {}
        operator = "Softmax" if boosted.head is Head.CLASSES else "Sigmoid"
        nodes = [
            helper.make_node(operator, [RAW], [tabular.PROBABILITIES], **last),
            helper.make_node("ArgMax", [RAW], ["place"], axis=1, keepdims=0),
        ]
    nodes.append(helper.make_node("Gather", ["classes", "place"], [tabular.LABEL]))
    kind = TensorProto.INT64 if shown.dtype == np.int64 else TensorProto.STRING
    label = helper.make_tensor_value_info(tabular.LABEL, kind, ["batch"])
    return nodes, constants, [label, numbers(tabular.PROBABILITIES, max(2, boosted.sums))]


def _border(model: catboost.CatBoost) -> float:
    """The sum above which a row is of the second class."""
    threshold = float(model.get_metadata().get("binclass_probability_threshold", 0.5))
    return float(np.log(threshold / (1 - threshold)))


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


if __name__ == "__main__":
    enclose()
    serve(step)
