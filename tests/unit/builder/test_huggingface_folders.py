"""What is read of a folder that transformers or sentence-transformers wrote, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import HeadraceError
from deployments.builder.sources.huggingface_models.folder import Pooling, TextTask, read_text_model, shards_of
from deployments.builder.sources.huggingface_models.resolve import stage
from deployments.builder.spec import BuildSpec, HuggingfaceSource, ModelSource

HERE = HuggingfaceSource(path=".")
NETWORK = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
UNIT = {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def write(folder: Path, architecture: str = "BertModel", kind: str = "bert", **files: Any) -> Path:
    """A folder with empty weights; `files` are JSON by their names, with __ for a slash; None is a file that is not there."""
    contents: dict[str, Any] = {
        "config": {"architectures": [architecture], "model_type": kind},
        "tokenizer": {},
        "model.safetensors": "",
        **files,
    }
    for name, value in contents.items():
        file = folder / (name.replace("__", "/") + ("" if "." in name else ".json"))
        file.parent.mkdir(exist_ok=True)
        if value is not None:
            file.write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("section", "found"),
    [
        ("folder", HuggingfaceSource(path="folder")),
        ({"path": "folder"}, HuggingfaceSource(path="folder")),
        ({"repo": "distilbert-base-uncased"}, HuggingfaceSource(repo="distilbert-base-uncased", revision="main")),
        ({"repo": "a/b.c_d-e", "revision": "refs/pr/1", "task": "embedding"}, None),
    ],
)
def test_a_source_is_a_folder_or_a_repo(section: Any, found: HuggingfaceSource | None) -> None:
    source = BuildSpec.model_validate({"source": {"huggingface": section}}).source
    assert source.kind == "huggingface"
    assert found is None or source.huggingface == found
    assert source.file == (section if isinstance(section, str) else section.get("path") or section["repo"])


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({}, "name one of path"),
        ({"path": "a", "repo": "b"}, "name one of path"),
        ({"path": "a", "revision": "v1"}, "revision: a folder has none"),
        ({"repo": "a/b/c"}, "repo"),
        ({"repo": "../b"}, "repo"),
        ({"repo": "a/.."}, "repo"),
        ({"path": "a", "task": "classification", "pooling": "cls"}, "only an embedding has one"),
        ({"path": "a", "max_length": 0}, "max_length"),
        ({"path": "a", "trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(section: Any, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ModelSource.model_validate({"huggingface": section})


@pytest.mark.parametrize(
    ("architecture", "files", "task", "pooling", "normalised", "length"),
    [
        ("BertForSequenceClassification", {}, "classification", "mean", False, None),
        ("BertModel", {}, "embedding", "mean", False, None),
        ("BertForMaskedLM", {}, "embedding", "mean", False, None),
        ("BertModel", {"modules": [NETWORK, POOLING, UNIT], "1_Pooling__config": MEAN}, "embedding", "mean", True, None),
        (
            "BertModel",
            {"modules": [NETWORK, POOLING], "1_Pooling__config": {"pooling_mode": "cls"}},
            "embedding",
            "cls",
            False,
            None,
        ),
        ("BertModel", {"sentence_bert_config": {"max_seq_length": 256, "do_lower_case": False}}, "embedding", "mean", False, 256),
    ],
)
def test_what_a_folder_says_of_itself(
    tmp_path: Path, architecture: str, files: Any, task: str, pooling: str, normalised: bool, length: int | None
) -> None:
    found = read_text_model(write(tmp_path, architecture, **files), HERE)
    assert (found.task, found.pooling) == (TextTask(task), Pooling(pooling))
    assert (found.normalised, found.max_length) == (normalised, length)


def test_the_document_s_pooling_leaves_out_what_the_folder_says(tmp_path: Path) -> None:
    dense = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
    found = read_text_model(write(tmp_path, modules=[NETWORK, POOLING, dense]), HuggingfaceSource(path=".", pooling="cls"))
    assert (found.pooling, found.normalised) == (Pooling.CLS, False)


@pytest.mark.parametrize(
    ("files", "asked", "says"),
    [
        ({"config": None}, {}, "has no config.json"),
        ({"config": "[]"}, {}, "is no JSON object"),
        ({"config": "{"}, {}, "makes no sense"),
        ({"model.safetensors": None}, {}, "has no model.safetensors"),
        (
            {"model.safetensors": None, "pytorch_model.bin": ""},
            {},
            r"has its weights as pytorch_model.bin alone, which may run code when it is read.*save_pretrained\(FOLDER\)",
        ),
        ({"tokenizer": None, "vocab.txt": "a"}, {}, r"has no tokenizer.json: its tokenizer is a slow one.*AutoTokenizer"),
        ({"architecture": "GPT2LMHeadModel", "kind": "gpt2"}, {}, r"is a GPT2LMHeadModel \(gpt2\), no text encoder"),
        ({"architecture": "BertForTokenClassification"}, {}, "is a BertForTokenClassification"),
        ({"config": {}}, {}, "model of no architecture"),
        ({}, {"task": "classification"}, "is a BertModel, whose classes nobody trained"),
        ({"architecture": "BertForSequenceClassification"}, {"pooling": "cls"}, "is a classifier, which has no pooling"),
        ({"modules": [NETWORK, POOLING, {"type": "x.Dense", "path": "2"}]}, {}, "is made of Transformer, Pooling, Dense"),
        ({"modules": [{**NETWORK, "path": "0_Transformer"}, POOLING]}, {}, "is made of Transformer, Pooling"),
        ({"modules": [NETWORK, POOLING], "1_Pooling__config": {"pooling_mode": "lasttoken"}}, {}, "pools by lasttoken"),
        ({"modules": [NETWORK, {**POOLING, "path": "../1_Pooling"}]}, {}, "names '../1_Pooling' for its pooling"),
        (
            {"modules": [NETWORK, POOLING], "config_sentence_transformers": {"default_prompt_name": "query"}},
            {},
            "puts its prompt 'query' before each text",
        ),
        ({"sentence_bert_config": {"do_lower_case": True}}, {}, "lowers each text outside of its tokenizer"),
    ],
)
def test_what_can_t_be_taken_is_refused_in_words(tmp_path: Path, files: Any, asked: Any, says: str) -> None:
    with pytest.raises(HeadraceError, match=says) as caught:
        read_text_model(write(tmp_path, **files), HuggingfaceSource(path=".", **asked))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["model-00001-of-00002.safetensors", "../other.safetensors"], r"names \.\./other.safetensors for its weights"),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors"], "has no model-2-of-2.safetensors"),
        ([], "names no files"),
    ],
)
def test_an_index_leads_nowhere_else(tmp_path: Path, names: list[str], says: str) -> None:
    index = {"weight_map": {str(place): name for place, name in enumerate(names)}}
    write(tmp_path, **{"model.safetensors": None, "model.safetensors.index": None, "model-1-of-2.safetensors": "w"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HeadraceError, match=says):
        shards_of(tmp_path)


def test_code_and_other_weights_are_not_laid_beside_a_model(tmp_path: Path) -> None:
    others = {
        "modeling.py": "raise SystemExit",
        "pytorch_model.bin": "p",
        "model-1-of-1.safetensors": "old",
        "training_args.bin": "p",
    }
    (tmp_path / "model").mkdir()
    folder = write(tmp_path / "model", **others)
    stage(folder, tmp_path / "staged")
    assert {file.name for file in (tmp_path / "staged").iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
