"""Two teams' models on real data by LightGBM: tumours (569 patients, malignant 0 or benign 1), wine (178, of three growers)."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split

SETS = {"cells": load_breast_cancer, "wine": load_wine}


def fit(name: str, out: str, seed: int = 0) -> list[float]:
    """Trains on the set that the input is called by, and writes into `out` model.txt; and test.npz: rows `name` [n, columns],
    float32, their `label` [n], and `own` [n], what LightGBM says of them. Returns the training losses."""
    values, label = SETS[name](return_X_y=True)
    values = values.astype(np.float32)  # as they are served: a double may lie on the other side of a split
    training, test, seen, unseen = train_test_split(values, label, test_size=0.3, random_state=seed, stratify=label)
    classes = len(np.unique(label))
    task = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": classes}
    settings = {**task, "num_leaves": 7, "min_data_in_leaf": 5, "seed": seed, "num_threads": 1, "verbose": -1}
    losses: dict[str, dict[str, list[float]]] = {}
    data = lightgbm.Dataset(training, label=seen)
    model = lightgbm.train(settings, data, 40, valid_sets=[data], callbacks=[lightgbm.record_evaluation(losses)])
    answers = np.asarray(model.predict(test))
    own = answers.argmax(axis=1) if answers.ndim == 2 else (answers > 0.5).astype(np.int64)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_model(folder / "model.txt")
    np.savez(folder / "test.npz", label=unseen, own=own, **{name: test})
    print(f"accuracy {np.mean(own == unseen):.3f} on {len(test)} rows")
    return next(iter(losses["training"].values()))
