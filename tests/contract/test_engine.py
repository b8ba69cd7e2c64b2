"""The contract of every engine, on the CPU, on CUDA, and in a process of its own: the same answers, the same failures."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadArtifact, BadInput, EngineFailure
from deployments.artifacts.manifest import SAMPLES, Manifest
from deployments.artifacts.samples import read_samples
from deployments.engines import load
from deployments.engines.isolate import score_isolating
from deployments.engines.port import Engine, gradients_of
from tests.support.cuda import needs_cuda
from tests.support.models import INPUT, OUTPUT, SIGNATURE, failing_artifact, mlp_artifact, rows, text_artifact
from tests.support.own_process import OwnProcess
from tests.support.torch_models import failing_program, mlp_program

Make = Callable[[Path], tuple[str, str, Manifest]]
Load = Callable[[Path], Engine]

ENGINES: dict[str, tuple[Make, Make]] = {
    "onnx": (mlp_artifact, failing_artifact),
    "torch": (mlp_program, failing_program),
}

ON_CUDA = [pytest.param((name, 1), marks=needs_cuda(name), id=f"{name} on cuda") for name in sorted(ENGINES)]
ON_CPU = [pytest.param((name, 0), id=name) for name in sorted(ENGINES)]
OWN_PROCESS = -1
APART = [pytest.param(("onnx", OWN_PROCESS), id="onnx in a process of its own")]


@pytest.fixture(params=[*ON_CPU, *ON_CUDA, *APART], scope="module")
def kind(request: pytest.FixtureRequest) -> tuple[str, int]:
    """The engine, and how many GPUs it gets, or OWN_PROCESS."""
    name, gpus = request.param
    return str(name), int(gpus)


@pytest.fixture
def load_engine(kind: tuple[str, int]) -> Iterator[Load]:
    """Loads an artifact as a replica with that share of a GPU does, or as a caller of a candidate on trial."""
    if kind[1] != OWN_PROCESS:
        yield lambda artifact: load.load_engine(artifact, gpus=kind[1])
        return
    with ExitStack() as started:
        yield lambda artifact: started.enter_context(closing(OwnProcess(artifact, threads=2)))


@pytest.fixture(scope="module")
def made(kind: tuple[str, int], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A good and a failing artifact of each engine; exporting a program takes a second."""
    good, failing = ENGINES[kind[0]]
    root = tmp_path_factory.mktemp("artifacts")
    return Path(good(root)[0]), Path(failing(root)[0])


@pytest.fixture
def good(made: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "good"))


@pytest.fixture
def failing(made: tuple[Path, Path], kind: tuple[str, int]) -> Path:
    if kind[1] > 0:
        pytest.skip("an index out of range goes unnoticed on CUDA (onnxruntime), or ends the process's use of it (torch)")
    return made[1]


def test_tells_its_signature(good: Path, load_engine: Load) -> None:
    assert load_engine(good).signature == SIGNATURE


def test_answers_as_recorded(good: Path, load_engine: Load) -> None:
    samples = read_samples(good)
    answer = load_engine(good).score(samples.inputs)
    np.testing.assert_allclose(answer[OUTPUT], samples.outputs[OUTPUT], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 65])
def test_each_row_is_scored_alone_in_its_place(good: Path, count: int, load_engine: Load) -> None:
    engine = load_engine(good)
    image = rows(count, seed=7)
    whole = engine.score({INPUT: image})[OUTPUT]
    assert whole.shape == (count, 10)
    assert whole.dtype == np.float32
    alone = np.concatenate([engine.score({INPUT: image[i : i + 1]})[OUTPUT] for i in range(count)])
    np.testing.assert_allclose(whole, alone, atol=1e-5)


def test_no_rows_give_no_answers(good: Path, load_engine: Load) -> None:
    answer = load_engine(good).score({INPUT: rows(0)})[OUTPUT]
    assert answer.shape == (0, 10)
    assert answer.dtype == np.float32


def test_leaves_its_input_alone(good: Path, load_engine: Load) -> None:
    image = rows(5)
    before = image.copy()
    load_engine(good).score({INPUT: image})
    np.testing.assert_array_equal(image, before)


def test_serves_several_threads(good: Path, load_engine: Load) -> None:
    engine = load_engine(good)
    images = [rows(17, seed=i) for i in range(8)]
    expected = [engine.score({INPUT: image})[OUTPUT] for image in images]
    answers: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        for _ in range(20):
            answers[i] = engine.score({INPUT: images[i]})[OUTPUT]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_allclose(answers[i], expected[i], atol=1e-5)


def test_a_failing_model_is_an_engine_failure_and_the_next_batch_works(failing: Path, load_engine: Load) -> None:
    engine = load_engine(failing)
    image = rows(6)
    image[3, 0] = 0.9
    with pytest.raises(EngineFailure):
        engine.score({INPUT: image})
    assert engine.score({INPUT: rows(6)})[OUTPUT].shape == (6, 10)


@pytest.mark.parametrize("own_process", [False, True], ids=["here", "in a process of its own"])
def test_bytes_that_are_no_text_are_their_senders_fault_by_row_and_element(tmp_path: Path, own_process: bool) -> None:
    path = Path(text_artifact(tmp_path)[0])
    rows = {"text": np.array([[b"yes", b"no"], [b"yes", b"\xff"], [b"\0", b""], [b"\xed\xa0\x80", b"yes"]], np.object_)}
    with ExitStack() as started:
        if own_process:
            answer = started.enter_context(closing(OwnProcess(path, threads=2))).answer(rows)
        else:
            answer = score_isolating(load.load_engine(path), rows)
    assert answer.outputs["known"].tolist() == [[1, 0], [0, 0], [0, 0], [0, 0]]
    assert {row: type(error) for row, error in answer.failed.items()} == {1: BadInput, 3: BadInput}
    assert "input 'text', element [1] of the row, is not UTF-8" in answer.failed[1].what
    assert "input 'text', element [0] of the row, is not UTF-8" in answer.failed[3].what


def test_a_damaged_file_never_loads(good: Path, load_engine: Load) -> None:
    model = next(path for path in good.iterdir() if path.name.startswith("model."))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    with pytest.raises(BadArtifact, match=model.name):
        load_engine(good)


def test_a_missing_file_never_loads(good: Path, load_engine: Load) -> None:
    (good / SAMPLES).unlink()
    with pytest.raises(BadArtifact, match=SAMPLES):
        load_engine(good)


def test_other_answers_than_the_build_recorded_never_load(
    good: Path, monkeypatch: pytest.MonkeyPatch, kind: tuple[str, int], load_engine: Load
) -> None:
    if kind[1] == OWN_PROCESS:
        pytest.skip("a patch does not reach the other process, which loads by the same function")
    recorded = read_samples(good)
    recorded.outputs[OUTPUT] = recorded.outputs[OUTPUT] + np.float32(0.01)
    monkeypatch.setattr("deployments.engines.load.read_samples", lambda _: recorded)
    with pytest.raises(BadArtifact, match=r"off by up to 0\.01"):
        load_engine(good)


def test_derivatives_are_those_of_the_answers_or_not_offered(good: Path, kind: tuple[str, int], load_engine: Load) -> None:
    engine = load_engine(good)
    derive = gradients_of(engine)
    if kind[0] != "torch":
        assert derive is None
        return
    assert derive is not None
    image, weights = rows(4), np.random.default_rng(1).normal(size=(4, 10)).astype(np.float32)
    slopes = derive({INPUT: image}, OUTPUT, weights)[INPUT]
    assert slopes.shape == image.shape
    way = np.random.default_rng(2).normal(size=image.shape).astype(np.float32)
    step = np.float32(0.01)
    ahead, back = (engine.score({INPUT: image + sign * step * way})[OUTPUT].astype(np.float64) for sign in (1, -1))
    by_difference = ((ahead - back) * weights).sum() / (2 * float(step))
    assert float((slopes.astype(np.float64) * way).sum()) == pytest.approx(by_difference, rel=0.05)
    answer = engine.score({INPUT: image})
    np.testing.assert_array_equal(engine.score({INPUT: image})[OUTPUT], answer[OUTPUT])
