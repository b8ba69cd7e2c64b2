from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import BadInput, NotFound
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.rows import check_classes, random_rows, read_rows

IMAGE = TensorSpec(name="image", datatype=Datatype.FP32, shape=(-1, 4))


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


@pytest.mark.parametrize("kind", ["npz", "lists", "fixed"])
def test_npz_and_parquet_give_the_same_rows(tmp_path: Path, kind: str) -> None:
    image, label = np.arange(12, dtype=np.float64).reshape(3, 4), np.array([0, 1, 2])
    file = tmp_path / "rows.parquet"
    if kind == "npz":
        file = npz(tmp_path, image=image, label=label)
    else:
        lists = pa.array(list(image)) if kind == "lists" else pa.FixedSizeListArray.from_arrays(pa.array(image.ravel()), 4)
        pq.write_table(pa.table({"image": lists, "label": label}), file)
    rows = read_rows(file, [IMAGE], label="label", limit=2)
    assert rows.inputs["image"].dtype == np.float32
    np.testing.assert_array_equal(rows.inputs["image"], image[:2])
    assert rows.labels is not None
    assert rows.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"image": np.zeros((3, 5))}, r"rows have shape \[5\], the input has \[4\]"),
        ({"image": np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]])}, "the first is row 1"),
        ({"image": np.array([["a", "b", "c", "d"]])}, "has datatype"),
        ({"picture": np.zeros((3, 4))}, "has no column image; it has picture"),
        ({"image": np.zeros((0, 4))}, "there are no rows"),
    ],
)
def test_wrong_rows_say_what_and_where(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        read_rows(npz(tmp_path, **arrays), [IMAGE])
    assert "rows.npz" in caught.value.where


def test_a_pickle_inside_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Object arrays"):
        read_rows(npz(tmp_path, image=np.array([{"a": 1}], dtype=object)), [IMAGE])


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    file = npz(tmp_path, image=np.zeros((3, 4)))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match="can't be read"):
        read_rows(file, [IMAGE])
    with pytest.raises(NotFound):
        read_rows(tmp_path / "none.npz", [IMAGE])


def test_nulls_and_ragged_lists_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": pa.array([[0.0] * 4, None])}), file)
    with pytest.raises(BadInput, match="1 nulls"):
        read_rows(file, [IMAGE])
    pq.write_table(pa.table({"image": pa.array([[0.0] * 4, [0.0] * 3])}), file)
    with pytest.raises(BadInput, match="differ in length"):
        read_rows(file, [IMAGE])


def test_labels_outside_the_classes_are_named() -> None:
    scores = {"scores": np.zeros((2, 10), np.float32)}
    check_classes(np.array([0, 9]), scores, "here")
    with pytest.raises(BadInput, match=r"0\.\.9; the first is that of row 1"):
        check_classes(np.array([0, 10]), scores, "here")


def test_random_rows_are_the_same_each_time() -> None:
    np.testing.assert_array_equal(random_rows([IMAGE], 5).inputs["image"], random_rows([IMAGE], 5).inputs["image"])
