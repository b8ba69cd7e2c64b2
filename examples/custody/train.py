"""Wine by LightGBM: 13 measures of a wine to which of three growers it is from; scikit-learn's 178 real wines."""

from __future__ import annotations

import sys
from pathlib import Path

import lightgbm
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split


def write_rows(out: Path, most: int) -> None:
    """Writes into `out` train.npz, `most` wines at most of those to learn from, and test.npz, 54 others: `wine` [n, 13], float32,
    and `label` [n]."""
    values, label = load_wine(return_X_y=True)
    values = values.astype(np.float32)  # as they are served: a double may lie on the other side of a split
    training, test, seen, unseen = train_test_split(values, label, test_size=54, random_state=0, stratify=label)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "train.npz", wine=training[:most], label=seen[:most])
    np.savez(out / "test.npz", wine=test, label=unseen)


def fit(rows: str, out: str, seed: int = 0) -> list[float]:
    """Trains on the file `rows` and writes model.txt into `out`. Returns the training losses."""
    with np.load(rows) as told:
        data = lightgbm.Dataset(told["wine"], label=told["label"])
    settings = {
        "objective": "multiclass",
        "num_class": 3,
        "num_leaves": 7,
        "min_data_in_leaf": 5,
        "num_threads": 1,
        "verbose": -1,
    }
    losses: dict[str, dict[str, list[float]]] = {}
    model = lightgbm.train(
        {**settings, "seed": seed}, data, 40, valid_sets=[data], callbacks=[lightgbm.record_evaluation(losses)]
    )
    model.save_model(Path(out) / "model.txt")
    return next(iter(losses["training"].values()))


if __name__ == "__main__":
    write_rows(Path(__file__).with_name("out"), int(sys.argv[1]))
