"""The strongest features by name: of equals the first, a group for its features, columns by their own names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployments.explain.form import ExplainMethod, ExplainScale, Explanation
from deployments.explain.strongest import strongest

PLAIN = Explanation(
    method=ExplainMethod.SHAPLEY,
    output="y",
    label=None,
    scale=ExplainScale.RAW,
    baseline=0.0,
    answer=1.0,
    attributions={"age": np.array([0.5]), "x": np.array([0.25, -2.0, 0.5, 0.0])},
    errors={"age": np.array([0.1]), "x": np.full(4, 0.2)},
    groups={},
    grouped={"age": np.zeros(1, np.bool_), "x": np.zeros(4, np.bool_)},
    evaluations=1,
    background_rows=1,
    completeness_error=0.0,
)


def told(explanation: Explanation, most: int = 10, **more: object) -> list[tuple[str, float]]:
    return [(one.feature, one.worth) for one in strongest(explanation, most, **more)]  # type: ignore[arg-type]


def test_by_size_and_of_equals_the_first() -> None:
    assert told(PLAIN) == [("x[1]", -2.0), ("age", 0.5), ("x[2]", 0.5), ("x[0]", 0.25), ("x[3]", 0.0)]
    assert told(PLAIN, 2) == [("x[1]", -2.0), ("age", 0.5)]
    assert [one.error for one in strongest(PLAIN, 2)] == [0.2, 0.1]


def test_columns_by_their_own_names() -> None:
    assert told(PLAIN, 2, names={"x": ("a", "b", "c", "d")}) == [("b", -2.0), ("age", 0.5)]


def test_a_group_stands_for_its_features() -> None:
    first = {"age": np.zeros(1, np.bool_), "x": np.array([True, True, False, False])}
    assert told(replace(PLAIN, groups={"both": (-1.75, 0.3)}, grouped=first)) == [
        ("both", -1.75),
        ("age", 0.5),
        ("x[2]", 0.5),
        ("x[3]", 0.0),
    ]
    whole = first | {"x": np.ones(4, np.bool_)}
    assert told(replace(PLAIN, groups={"x[0:2,0:2]": (-1.25, 0.3)}, grouped=whole), 1) == [("x[0:2,0:2]", -1.25)]
