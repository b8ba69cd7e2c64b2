"""`headrace explain --served`: what the service tells is what this process would have computed."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from cluster.errors import NotFound
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainMethod, ExplainOptions, Explanation
from deployments.gateway.protocol.explanations import encode_v1_explanations
from deployments.scoring.port import Explained
from headrace.cli.explain.served import served_explanation
from headrace.client import ControlClient
from tests.support.gateway_fakes import PAIR, double, model_view

OPTIONS = ExplainOptions(method=ExplainMethod.SHAPLEY, output="sum", groups={"both": ["x[0]", "x[1]"]})
BACKGROUND = Background({"x": np.array([[0, 0], [1, 1]], np.float32)})


def explained(row: np.ndarray) -> Explanation:
    return explain_rows(double, {"x": row.astype(np.float32)}, PAIR, BACKGROUND, OPTIONS)[0]


def test_a_service_is_asked_and_its_answer_is_an_explanation(tmp_path: Path) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.path.startswith("/control/"):
            return httpx.Response(200, json=model_view())
        row = np.array([json.loads(request.content)["instances"][0]["x"]])
        return httpx.Response(200, content=encode_v1_explanations("pair", Explained(3, [explained(row)]), PAIR))

    file = tmp_path / "row.json"
    file.write_text('[{"x": [7, 8]}, {"x": [2, 3]}]')
    given = {"method": ExplainMethod.SHAPLEY, "output": "sum", "groups": {"both": ["x[0]", "x[1]"]}, "class": None}
    with ControlClient("http://gateway", transport=httpx.MockTransport(answer)) as client:
        called, told, row = served_explanation(client, "pair", None, file, 1, given)
        with pytest.raises(NotFound, match=r"no version 9.*1, 2, 3, 4"):
            served_explanation(client, "pair", 9, file, 0, given)
    want = explained(np.array([[2, 3]]))
    assert (called, row["x"].tolist()) == ("pair version 3", [[2.0, 3.0]])
    assert json.loads(asked[1].content)["parameters"] == {key: value for key, value in given.items() if value is not None}
    np.testing.assert_array_equal(told.attributions["x"], want.attributions["x"])
    np.testing.assert_array_equal(told.grouped["x"], want.grouped["x"])
    assert (told.groups, told.baseline, told.answer, told.method) == (want.groups, want.baseline, want.answer, want.method)
    assert (told.completeness_error, told.evaluations, told.why) == (want.completeness_error, want.evaluations, want.why)
