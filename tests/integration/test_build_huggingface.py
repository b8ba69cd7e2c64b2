"""Text models of transformers, small ones with tokenizers of their own: built, and answering as transformers itself does."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.artifacts.package import Artifact
from deployments.builder.pipeline import Built
from deployments.builder.sources.huggingface_models import resolve
from deployments.builder.sources.huggingface_models.folder import read_text_model
from deployments.builder.sources.huggingface_models.network import answers, load
from deployments.builder.sources.huggingface_models.trial_texts import TEXTS
from deployments.builder.sources.mlflow_models.resolve import push
from deployments.builder.spec import HuggingfaceSource
from deployments.builder.steps import quantize
from deployments.builder.worker import run_worker
from deployments.engines.arrays import save_arrays
from deployments.engines.load import load_engine, open_engine
from deployments.engines.port import Engine
from tests.support import text_models
from tests.support.builds import refused, run, steps_here
from tests.support.fake_hub import COMMIT, fake_hub
from tests.support.three_ways import asked_in_bulk, asked_on_a_stream, asked_online

REAL = [text for text, _ in text_models.sentences()]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """transformers writes reports of what it loads."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folder `sentences` of a trained classifier, and the labelled rows."""
    folder = tmp_path_factory.mktemp("classifier")
    text_models.write_classifier(folder / "sentences")
    rows = text_models.sentences()
    np.savez(
        folder / "rows.npz", text=np.array([text for text, _ in rows]), label=np.array([text_models.LABELS[i] for _, i in rows])
    )
    return folder


SECTION = {"source": {"huggingface": "sentences"}, "evaluate": {"data": "rows.npz", "label": "label"}, "measure": {"seconds": 1}}


@pytest.fixture(scope="module")
def built(classifier: Path) -> tuple[Built, list[str]]:
    """The version, from the hub, and what a user is told."""
    said: list[str] = []
    files = {file.name: file.read_bytes() for file in (classifier / "sentences").iterdir()}
    files |= {"pytorch_model.bin": b"a pickle", "handler.py": b"raise SystemExit"}
    with pytest.MonkeyPatch.context() as patch, fake_hub({"owner/sentences": files}) as (address, _):
        steps_here(patch)
        patch.setattr(resolve, "run_worker", run_worker)  # its settings are read as its library is loaded
        patch.setenv("HF_ENDPOINT", address)
        patch.setenv("HF_HOME", str(classifier / "cache"))
        section = SECTION | {"source": {"huggingface": {"repo": "owner/sentences"}}}
        return run(classifier, section, said=said), said


@pytest.fixture(scope="module")
def artifact(built: tuple[Built, list[str]]) -> Artifact:
    made = built[0].artifact
    assert made is not None, built[0].broken
    return made


def theirs(folder: Path, texts: list[str]) -> np.ndarray:
    """transformers' own logits for each text alone."""
    words = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        parts = [network(**_tokens(words, text)).logits.numpy() for text in texts]
    return np.concatenate(parts)


def _tokens(words: Any, text: str, most: int = text_models.MAX_LENGTH) -> Any:
    found = words(text, truncation=True, max_length=most, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def score(engine: Engine, texts: list[str]) -> dict[str, np.ndarray]:
    return engine.score({"text": as_bytes(texts)})


def as_bytes(texts: list[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], object)


def test_a_classifier_answers_as_transformers_does_alone_and_beside_longer_texts(
    classifier: Path, built: tuple[Built, list[str]], artifact: Artifact
) -> None:
    report = built[0].report
    signature = artifact.manifest.signature
    assert signature.inputs == (TensorSpec(name="text", datatype=Datatype.BYTES, shape=(-1,)),)
    assert [(one.name, one.datatype, one.shape) for one in signature.outputs] == [
        ("label", "BYTES", (-1,)),
        ("probabilities", "FP32", (-1, 3)),
        ("logits", "FP32", (-1, 3)),
    ]
    engine = load_engine(Path(artifact.uri))
    texts = [*TEXTS, *REAL[:40]]
    truth = theirs(classifier / "sentences", texts)
    together = score(engine, texts)
    alone = [score(engine, [text]) for text in texts]
    scale = max(1.0, float(np.abs(truth).max()))
    assert float(np.abs(together["logits"] - truth).max()) <= 1e-5 * scale
    assert float(np.abs(np.concatenate([one["logits"] for one in alone]) - truth).max()) <= 1e-5 * scale
    np.testing.assert_allclose(together["probabilities"].sum(axis=1), 1, atol=1e-5)
    assert together["label"].tolist() == [text_models.LABELS[place].encode() for place in truth.argmax(axis=1)]
    assert np.ptp(truth, axis=0).min() > 0.1  # it does read its text

    source = report.source
    assert source["huggingface"] == {"repo": "owner/sentences", "revision": "main", "commit": COMMIT}
    assert f"owner/sentences at main is commit {COMMIT}" in built[1]
    assert report.parity <= 1e-5
    assert source["differ"] == {"rows": len(REAL), "other": 0}
    assert source["architecture"] == "DistilBertForSequenceClassification"
    assert source["max_length"] == text_models.MAX_LENGTH
    words = AutoTokenizer.from_pretrained(classifier / "sentences")
    longer = sum(len(words(text)["input_ids"]) > text_models.MAX_LENGTH for text in REAL)
    assert source["cut"] == {"rows": len(REAL), "longer": longer}
    assert longer > 0
    assert f"texts are cut at 64 tokens: {longer} of {len(REAL)} are longer" in built[1]
    quality = report.variant("optimised").quality
    assert quality is not None
    assert (quality.accuracy or 0) > 0.8
    assert quality.cross_entropy is not None


@pytest.mark.proof
def test_the_real_workers_build_the_same(classifier: Path, built: tuple[Built, list[str]]) -> None:
    """Behind the fence, without a network, each in a process of its own."""
    found = run(classifier, SECTION)
    own = ("huggingface",)  # where it came from
    assert found.report.source == {name: value for name, value in built[0].report.source.items() if name not in own}
    chosen = found.report.variant("optimised")
    assert chosen.quality == built[0].report.variant("optimised").quality
    assert chosen.speed["1"].rows_per_s > 1


@pytest.mark.anyio
async def test_text_gets_the_same_answer_on_all_three_ways(
    tmp_path: Path, classifier: Path, artifact: Artifact, broker: str
) -> None:
    texts = [*REAL[:6], TEXTS[9], TEXTS[16], TEXTS[-1], ""]
    truth = theirs(classifier / "sentences", texts)
    rows: list[dict[str, Any]] = [{"text": text} for text in [*texts, None]]

    online = await asked_online(artifact, rows)
    answers, dead = asked_on_a_stream(artifact, broker, rows)
    output, reasons = asked_in_bulk(
        artifact, tmp_path, {"text": pa.array([row["text"] for row in rows])}, {"l": "label", "s": "logits"}
    )

    assert "text" in str(online[-1])
    assert (dead, reasons) == ([{"text": None}], {len(texts): "column text is null"})
    by_way = {
        "online": [(one["label"][0], one["logits"]) for one in online[:-1]],  # type: ignore[index]
        "stream": [(one["label"], one["logits"]) for one in answers],
        "bulk": list(zip(output["l"].to_pylist(), output["s"].to_pylist(), strict=True)),
    }
    names = [text_models.LABELS[place] for place in truth.argmax(axis=1)]
    for way, found in by_way.items():
        assert [label for label, _ in found] == names, way
        np.testing.assert_allclose(
            [logits for _, logits in found], truth, atol=1e-5 * max(1.0, float(np.abs(truth).max())), err_msg=way
        )


SERVED = """
import sys
from pathlib import Path
import numpy as np
from deployments.engines.load import load_engine
engine = load_engine(Path(sys.argv[1]))
print(engine.score({"text": np.array([sys.argv[2].encode()], object)})["label"][0].decode())
print([name for name in ("torch", "transformers", "huggingface_hub", "onnx") if name in sys.modules])
"""


def test_serving_needs_neither_torch_nor_transformers(classifier: Path, artifact: Artifact) -> None:
    told = subprocess.run([sys.executable, "-c", SERVED, artifact.uri, REAL[0]], capture_output=True, text=True, check=True)
    label = text_models.LABELS[int(theirs(classifier / "sentences", REAL[:1]).argmax())]
    assert told.stdout.splitlines() == [label, "[]"]


def test_mlflow_gets_no_text_model_without_its_tokenizer(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="reads text by its tokenizer, which MLflow's flavour onnx has no place for"):
        push(Path(artifact.uri), "mood 1", "mood", tracking_uri="", base=tmp_path, log=tmp_path / "log")


@pytest.mark.parametrize("method", ["int8-static", "int8-dynamic", "fp16"])
def test_the_tokenizer_stays_with_what_is_made_smaller(artifact: Artifact, tmp_path: Path, method: str) -> None:
    save_arrays(tmp_path / "rows.npz", {"text": as_bytes(REAL[:32])})
    made = tmp_path / "made.onnx"
    quantize.METHODS[method](Path(artifact.uri) / "model.onnx", made, str(tmp_path / "rows.npz"))
    small, whole = open_engine("onnx", made, artifact.manifest.signature), load_engine(Path(artifact.uri))
    same = score(small, REAL)["label"] == score(whole, REAL)["label"]
    assert same.mean() > 0.9
    types = {node.op_type for node in onnx.load(made).graph.node}
    assert method == "fp16" or any("Quant" in one or "Integer" in one for one in types)


@pytest.mark.usefixtures("builds_here")
def test_an_encoder_embeds_as_sentence_transformers_was_told_to(tmp_path: Path) -> None:
    text_models.write_encoder(tmp_path / "encoder")
    texts = [*TEXTS[:4], *REAL[:4]]
    section = {
        "source": {"huggingface": {"path": "encoder", "max_length": 16}},
        "inputs": [{"name": "comment", "datatype": "BYTES", "shape": [-1]}],
        "optimise": False,
    }
    found = run(tmp_path, section)
    assert found.artifact is not None, found.broken
    assert found.report.source["pooling"] == "cls, normalised"
    assert found.report.parity <= 1e-5
    words, network = AutoTokenizer.from_pretrained(tmp_path / "encoder"), AutoModel.from_pretrained(tmp_path / "encoder")
    truth = []
    for text in texts:
        with torch.no_grad():
            first = network(**_tokens(words, text, 16)).last_hidden_state[0, 0].numpy()
        truth.append(first / np.linalg.norm(first))
    mine = load_engine(Path(found.artifact.uri)).score({"comment": as_bytes(texts)})["embedding"]
    np.testing.assert_allclose(mine, np.array(truth), atol=1e-5)


@pytest.mark.usefixtures("builds_here")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("vocabulary", "its tokenizer knows 600 tokens, its network 300"),
        ("truncated", "transformers can't read it: .*(incomplete metadata|header)"),
        ("no head", "its weights lack classifier.bias and 3 more"),
        ("no padding", "its tokenizer has no token to pad with"),
        ("too long", "65 tokens are more than the 64 that the model reads"),
        ("two inputs", "the model reads one text a row"),
        ("unknown output", "the model has no output score; its outputs are label, probabilities, logits"),
    ],
)
def test_what_can_t_be_built_is_refused_in_words(tmp_path: Path, classifier: Path, spoil: str, says: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (classifier / "sentences").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    section: dict[str, Any] = {"source": {"huggingface": {"path": "model"}}}
    match spoil:
        case "vocabulary":
            small = text_models.config(num_labels=3)
            small.vocab_size = 300
            AutoModelForSequenceClassification.from_config(small).save_pretrained(folder)
        case "truncated":
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])
        case "no head":
            AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
            (folder / "model.safetensors").write_bytes((tmp_path / "bare" / "model.safetensors").read_bytes())
        case "no padding":
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
        case "too long":
            section["source"]["huggingface"]["max_length"] = 65
        case "two inputs":
            section["inputs"] = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("first", "second")]
        case _:
            section["outputs"] = ["score"]
    refused(tmp_path, section, says)


@pytest.mark.parametrize(
    ("more", "outputs"),
    [
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, ["probabilities", "logits"]),
        ({"num_labels": 1}, ["prediction"]),
        ({"num_labels": 2, "problem_type": "regression"}, ["prediction"]),
    ],
)
def test_a_head_s_answers_are_what_it_was_trained_for(tmp_path: Path, more: dict[str, Any], outputs: list[str]) -> None:
    AutoModelForSequenceClassification.from_config(text_models.config(**more)).save_pretrained(tmp_path)
    text_models.tokenizer().save_pretrained(tmp_path)
    asked = HuggingfaceSource(path=".")
    found = answers(load(read_text_model(tmp_path, asked), asked), list(TEXTS))
    assert list(found) == outputs
    truth = theirs(tmp_path, list(TEXTS))
    np.testing.assert_allclose(found[outputs[-1]], truth, atol=1e-6)
    if len(outputs) == 2:
        np.testing.assert_allclose(found["probabilities"], 1 / (1 + np.exp(-truth)), atol=1e-6)
