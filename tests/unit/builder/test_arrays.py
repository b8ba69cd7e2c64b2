from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployments.artifacts.samples import Samples, read_samples, save_samples
from deployments.engines.arrays import load_arrays, save_arrays

TEXT = np.array([[b"a", b""], [b"\x00b", "\u00e9".encode()]], dtype=object)


def test_arrays_of_any_name_and_datatype_come_back(tmp_path: Path) -> None:
    arrays = {
        "file": np.arange(3),  # numpy.savez would take it for its own argument
        "allow_pickle": np.array([True]),
        "text": TEXT,
        "empty": np.empty((0, 2), object),
        "raw.bytes": np.zeros(2, np.uint8),  # no text, though it is called like a part of one
        "serving/x:0": np.ones((2, 2), np.float16),
    }
    save_arrays(tmp_path / "a.npz", arrays)
    found = load_arrays(tmp_path / "a.npz")
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        load_arrays(tmp_path / "a.npz")


def test_samples_of_earlier_releases_are_read(tmp_path: Path) -> None:
    arrays = {"in.x": np.ones(2, np.float32), "out.t.bytes": np.frombuffer(b"abc", np.uint8), "out.t.lengths": np.array([1, 2])}
    np.savez(tmp_path / "samples.npz", **arrays)
    found = read_samples(tmp_path)
    assert found.inputs["x"].tolist() == [1, 1]
    assert found.outputs["t"].tolist() == [b"a", b"bc"]
    save_samples(tmp_path / "samples.npz", Samples({"x": found.inputs["x"]}, {"t": found.outputs["t"]}))
    assert read_samples(tmp_path).outputs["t"].tolist() == [b"a", b"bc"]
