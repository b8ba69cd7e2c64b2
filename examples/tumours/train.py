"""Breast cancer by LightGBM: 30 measures of the cells in a sample to malignant (0) or benign (1), 569 real patients."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split


def fit(out: str = "out", seed: int = 0) -> list[float]:
    """Writes into `out` model.txt; test.npz, 170 rows with their label; and events.parquet, what is then scored.

    Events are the test rows with an `id`, a column a measure, and LightGBM's own answers to them as `label` and `probability`
    (of benign). Returns the loss on the training rows.
    """
    cells, label = load_breast_cancer(return_X_y=True)
    cells = cells.astype(np.float32)  # as they are served: a double may lie on the other side of a split
    training, test, seen, unseen = train_test_split(cells, label, test_size=170, random_state=seed, stratify=label)
    settings = {"objective": "binary", "num_leaves": 15, "learning_rate": 0.1, "seed": seed, "num_threads": 1, "verbose": -1}
    losses: dict[str, dict[str, list[float]]] = {}
    data = lightgbm.Dataset(training, label=seen)
    model = lightgbm.train(settings, data, 60, valid_sets=[data], callbacks=[lightgbm.record_evaluation(losses)])

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_model(folder / "model.txt")
    np.savez(folder / "test.npz", cells=test, label=unseen)
    answers = np.asarray(model.predict(test))
    events = pd.DataFrame({f"measure_{place}": test[:, place] for place in range(test.shape[1])})
    told = {"label": (answers > 0.5).astype(np.int64), "probability": answers}
    events.assign(id=range(len(events)), **told).to_parquet(folder / "events.parquet", index=False)
    print(f"accuracy {np.mean((answers > 0.5) == unseen):.3f} on {len(test)} rows")
    return losses["training"]["binary_logloss"]


if __name__ == "__main__":
    fit(str(Path(__file__).with_name("out")))
