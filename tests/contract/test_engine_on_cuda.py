"""What the contract of engines holds where a replica has a GPU, or was promised one, beside `test_engine`."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import EngineFailure
from deployments.artifact import Manifest, read_samples
from deployments.engines.load import load_engine
from deployments.isolate import score_isolating
from tests.cuda import CUDA, needs_cuda
from tests.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.torch_models import failing_program, mlp_program, weighing_program

Make = Callable[[Path], tuple[str, str, Manifest]]

MLPS: dict[str, Make] = {"onnx": mlp_artifact, "torch": mlp_program}
ON_CUDA = [pytest.param(make, marks=needs_cuda(name), id=name) for name, make in sorted(MLPS.items())]
WITHOUT = [
    pytest.param(make, marks=pytest.mark.skipif(CUDA[name], reason="has a CUDA device"), id=name)
    for name, make in sorted(MLPS.items())
]


@pytest.mark.parametrize("make", ON_CUDA)
def test_an_engine_with_a_gpu_scores_on_it(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_engine(Path(make(tmp_path)[0]), gpus=1)
    assert "on the CPU" not in caplog.text


@pytest.mark.parametrize("make", WITHOUT)
def test_where_there_is_no_gpu_it_says_so_and_scores_on_the_cpu(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = Path(make(tmp_path)[0])
    with caplog.at_level(logging.WARNING):
        engine = load_engine(artifact, gpus=1)
    assert "scoring on the CPU" in caplog.text
    samples = read_samples(artifact)
    np.testing.assert_allclose(engine.score(samples.inputs)[OUTPUT], samples.outputs[OUTPUT], atol=1e-5)


@pytest.mark.parametrize("make", ON_CUDA)
def test_a_share_of_a_gpu_is_a_share_of_its_memory(make: Make, tmp_path: Path) -> None:
    engine = load_engine(Path(make(tmp_path)[0]), gpus=0.002)
    many = np.zeros((200_000, 784), np.float32)  # 627 MB
    with pytest.raises(EngineFailure, match="memory"):
        engine.score({INPUT: many})
    answer = score_isolating(engine, {INPUT: many})
    assert not answer.failed
    assert answer.outputs[OUTPUT].shape == (200_000, 10)


@pytest.mark.parametrize("gpus", [0, pytest.param(1, marks=needs_cuda("torch"), id="cuda")])
def test_a_program_may_make_tensors_as_it_runs(gpus: int, tmp_path: Path) -> None:
    artifact = Path(weighing_program(tmp_path)[0])
    answer = load_engine(artifact, gpus=gpus).score({INPUT: rows(65)})[OUTPUT]
    np.testing.assert_allclose(answer, load_engine(artifact).score({INPUT: rows(65)})[OUTPUT], atol=1e-5)


@pytest.mark.parametrize("made", [pytest.param(failing_program, marks=needs_cuda("torch"), id="torch")])
def test_a_row_that_ends_the_use_of_the_gpu_is_told_apart_from_one_that_fails(made: Make, tmp_path: Path) -> None:
    artifact = made(tmp_path)[0]
    program = f"""
from pathlib import Path
from deployments.engines.load import load_engine
from deployments.engines.port import DeviceLost
from tests.models import INPUT, rows
engine = load_engine(Path({artifact!r}), gpus=1)
image = rows(6)
image[3, 0] = 0.9
for each in (image, rows(6)):
    try:
        engine.score({{INPUT: each}})
    except DeviceLost as error:
        print("lost", error.what)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("lost the model ended this process's use of the GPU: ") == 2, done.stdout + done.stderr
