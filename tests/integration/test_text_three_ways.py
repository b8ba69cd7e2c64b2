"""One model with text in and text out, online, on a stream and in bulk: the same rows get the same answers, or are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deployments.artifacts.package import Artifact
from tests.support.builds import run
from tests.support.three_ways import Row, asked_in_bulk, asked_on_a_stream, asked_online

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("builds_here")]
TEXTS = {"purpose": pa.string(), "housing": pa.large_string(), "job": pa.dictionary(pa.int32(), pa.string())}
# One of each kind: known words, words that the model never saw, none at all, and what no way takes.
ROWS: list[Row] = [
    {"amount": 12.5, "purpose": "car", "housing": "own", "job": "clerk"},
    {"amount": 80.0, "purpose": "\u00e9tudes", "housing": "rent", "job": "\u6559\u5e2b"},
    {"amount": 80.0, "purpose": "yacht \U0001f6e5", "housing": "\u00e9tudes", "job": "x" * 300},
    {"amount": 3.0, "purpose": "", "housing": "own", "job": ""},
    {"amount": 3.0, "purpose": None, "housing": "own", "job": "clerk"},
    {"amount": 3.0, "purpose": "car", "housing": None, "job": "clerk"},
    {"amount": 3.0, "purpose": "car", "housing": "own", "job": None},
    {"amount": 41.0, "purpose": "car\ttab", "housing": "rent", "job": "clerk"},
]
REFUSED = {4: "purpose", 5: "housing", 6: "job"}


def fit() -> tuple[Any, pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(0)
    words = {"purpose": ["car", "house", "\u00e9tudes"], "housing": ["own", "rent"], "job": ["clerk", "\u6559\u5e2b", "none"]}
    table = pd.DataFrame({"amount": random.uniform(1, 100, 300).astype(np.float32)})
    table = table.assign(**{name: random.choice(known, 300).astype(object) for name, known in words.items()})
    odds = table["amount"] - 40 * (table["purpose"] == "house") + 30 * (table["housing"] == "rent")
    label = np.where(odds > odds.median(), "r\u00fcckzahlung", "ausfall")
    prepared = ColumnTransformer(
        [("amount", StandardScaler(), ["amount"]), ("texts", OneHotEncoder(handle_unknown="ignore"), list(TEXTS))]
    )
    return make_pipeline(prepared, LogisticRegression()).fit(table, label), table, label


def built(folder: Path, pipeline: Any, table: pd.DataFrame, label: np.ndarray) -> Artifact:
    skops.io.dump(pipeline, folder / "m.skops")
    table.assign(label=label).to_parquet(folder / "rows.parquet")
    columns = [{"name": name, "datatype": "BYTES" if name in TEXTS else "FP32", "shape": [-1, 1]} for name in table]
    section = {
        "source": {"sklearn": "m.skops"},
        "inputs": columns,
        "outputs": ["label", "probabilities"],
        "evaluate": {"data": "rows.parquet", "label": "label"},
        "optimise": False,
    }
    made = run(folder, section, model="m").artifact
    assert made is not None
    return made


def expected(pipeline: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[float]]]:
    table = pd.DataFrame(rows)
    return list(zip(pipeline.predict(table).tolist(), pipeline.predict_proba(table).tolist(), strict=True))


async def test_text_is_answered_alike_on_all_three_ways(tmp_path: Path, broker: str) -> None:
    pipeline, table, label = fit()
    artifact = built(tmp_path, pipeline, table, label)
    good = [place for place in range(len(ROWS)) if place not in REFUSED]
    truth = expected(pipeline, [ROWS[place] for place in good])

    columns = {name: pa.array([row[name] for row in ROWS], TEXTS.get(name, pa.float32())) for name in ROWS[0]}
    online = await asked_online(artifact, ROWS)
    answers, dead = asked_on_a_stream(artifact, broker, ROWS)
    output, reasons = asked_in_bulk(artifact, tmp_path, columns, {"decision": "label", "probabilities": "probabilities"})

    for place, name in REFUSED.items():
        assert name in str(online[place])
        assert reasons[place] == f"column {name} is null"
    assert dead == [ROWS[place] for place in REFUSED]
    assert sorted(reasons) == sorted(REFUSED)

    by_way = {
        "online": [(online[place]["label"][0], online[place]["probabilities"]) for place in good],  # type: ignore[index]
        "stream": [(answer["label"], answer["probabilities"]) for answer in answers],
        "bulk": list(zip(output["decision"].to_pylist(), output["probabilities"].to_pylist(), strict=True)),
    }
    assert output["id"].to_pylist() == good
    for way, found in by_way.items():
        assert [word for word, _ in found] == [word for word, _ in truth], way
        np.testing.assert_allclose([p for _, p in found], [p for _, p in truth], atol=1e-5, err_msg=way)
        np.testing.assert_allclose([p for _, p in found], [p for _, p in by_way["online"]], atol=1e-7, err_msg=way)
