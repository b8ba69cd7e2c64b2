"""What the contract of engines holds where a replica has a GPU, or was promised one, beside `test_engine`."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import EngineFailure
from deployments.artifacts.manifest import Manifest
from deployments.artifacts.samples import read_samples
from deployments.engines.load import load_engine
from tests.support.cuda import CUDA, needs_cuda
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.support.torch_models import failing_program, mlp_program, weighing_program

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
    """In a process of its own, as a replica is: in this one, torch holds a workspace for each thread that ever multiplied."""
    program = f"""
from pathlib import Path
import numpy as np
from cluster.errors import EngineFailure
from deployments.engines.load import load_engine
from deployments.engines.isolate import score_isolating
engine = load_engine(Path({make(tmp_path)[0]!r}), gpus=0.002)
many = {{"image": np.zeros((200_000, 784), np.float32)}}  # 627 MB
try:
    engine.score(many)
except EngineFailure as error:
    print("refused", error.what)
answer = score_isolating(engine, many)
print("failed", len(answer.failed), "of", len(answer.outputs["probabilities"]))
"""
    told = in_a_process_of_its_own(program)
    assert "refused the model failed: " in told
    assert "memory" in told
    assert "failed 0 of 200000" in told


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
from tests.support.models import INPUT, rows
engine = load_engine(Path({artifact!r}), gpus=1)
image = rows(6)
image[3, 0] = 0.9
for each in (image, rows(6)):
    try:
        engine.score({{INPUT: each}})
    except DeviceLost as error:
        print("lost", error.what)
"""
    assert in_a_process_of_its_own(program).count("lost the model ended this process's use of the GPU: ") == 2


def in_a_process_of_its_own(program: str) -> str:
    """What the program printed."""
    return subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout


def test_a_failure_that_is_kept_keeps_no_tensors(tmp_path: Path) -> None:
    engine = load_engine(Path(failing_program(tmp_path)[0]))
    image = rows(61)
    image[3, 0] = 0.9
    with pytest.raises(EngineFailure) as kept:
        engine.score({INPUT: image})
    gc.collect()
    alive = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.shape[:1] == (61,)]
    assert not alive, kept.value
