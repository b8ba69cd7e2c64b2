"""Real handwritten digits (scikit-learn's 1,797, scaled from 8x8 to 28x28), with test rows that training never sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

TEST_ROWS = 497


@dataclass(frozen=True, slots=True)
class Rows:
    """Images float32 [n, 784] in 0..1 and labels int64 [n]."""

    image: np.ndarray
    label: np.ndarray


def load() -> tuple[Rows, Rows]:
    """The training rows and the held-out test rows: 1,300 and 497, always the same."""
    images, labels = load_digits(return_X_y=True)
    scaled = zoom(images.reshape(-1, 8, 8) / 16.0, (1, 3.5, 3.5), order=1).clip(0, 1)
    image = scaled.reshape(len(scaled), 784).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(image))
    test, train = order[:TEST_ROWS], order[TEST_ROWS:]
    return Rows(image[train], labels[train].astype(np.int64)), Rows(image[test], labels[test].astype(np.int64))


def write(rows: Rows, folder: Path, name: str) -> None:
    """Writes NAME.npz and NAME.parquet: columns `id`, `image` (784 floats) and `label`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", image=rows.image, label=rows.label)
    table = pa.table(
        {
            "id": pa.array(range(len(rows.label)), pa.int64()),
            "image": pa.FixedSizeListArray.from_arrays(pa.array(rows.image.reshape(-1)), 784),
            "label": rows.label,
        }
    )
    pq.write_table(table, folder / f"{name}.parquet")
