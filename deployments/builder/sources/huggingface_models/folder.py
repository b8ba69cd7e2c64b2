"""What a folder that transformers saved says of itself, read as data: its task, its pooling, which files it is made of."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from cluster.errors import BadInput, NotFound
from deployments.builder.spec import HuggingfaceSource

CONFIG, TOKENIZER, WEIGHTS, SHARDS = "config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"
MODULES, SENTENCES, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
# All that is read of a model; code, pickles and other frameworks' weights are not among it.
KEPT = (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    SHARDS,
    "model-*-of-*.safetensors",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    MODULES,
    SENTENCES,
    PROMPTS,
    "*_Pooling/config.json",
)
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# An ONNX file can't hold more; the same number bounds what is fetched.
LARGEST_BYTES = 2**31 - 2**20
LARGEST_TEXT_BYTES = 16 * 2**20
# Encoders whose rows do not depend on the padding beside them, each tried with both of its tasks.
ENCODERS = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "mobilebert",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
CLASSIFIER = "ForSequenceClassification"
# What else those encoders are saved with: an embedding leaves the head out.
HEADS = ("Model", "ForMaskedLM", "ForPreTraining")
RESAVE = "AutoModel.from_pretrained(...).save_pretrained(FOLDER) there writes one"


class TextTask(Enum):
    """What the text becomes."""

    CLASSIFICATION = "classification"
    EMBEDDING = "embedding"


class Pooling(Enum):
    """What an embedding takes of the last layer: the mean over a text's tokens, or its first token."""

    MEAN = "mean"
    CLS = "cls"


@dataclass(frozen=True, slots=True)
class TextModel:
    """A model folder. `max_length` is None where only the network and its tokenizer bound it."""

    folder: Path
    architecture: str
    task: TextTask
    pooling: Pooling = Pooling.MEAN
    normalised: bool = False
    max_length: int | None = None


def read_text_model(folder: Path, asked: HuggingfaceSource) -> TextModel:
    """Reads the folder's JSON files, and no weights. Raises NotFound, or BadInput that names what can't be taken."""
    where = str(folder)
    if not (folder / CONFIG).is_file():
        raise NotFound(f"has no {CONFIG}", where=where, remedy="name the folder that transformers' save_pretrained wrote")
    refuse_weights([file.name for file in folder.iterdir()], where)
    if not (folder / TOKENIZER).is_file():
        raise BadInput(
            f"has no {TOKENIZER}: its tokenizer is a slow one, which is Python code, or was left out",
            where=where,
            remedy="AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER) writes a fast one beside the model",
        )
    config = _read(folder / CONFIG)
    architecture, kind = _architecture(config), str(config.get("model_type", ""))
    classifies = architecture.endswith(CLASSIFIER)
    if kind not in ENCODERS or not (classifies or architecture.endswith(HEADS)):
        raise BadInput(
            f"is a {architecture or 'model of no architecture'} ({kind or 'no model_type'}), no text encoder or classifier that"
            " this source knows",
            where=where,
            remedy=f"take a sequence classifier, or an encoder, of one of these kinds: {', '.join(ENCODERS)}",
        )
    task = TextTask(asked.task) if asked.task else TextTask.CLASSIFICATION if classifies else TextTask.EMBEDDING
    if task is TextTask.CLASSIFICATION and not classifies:
        raise BadInput(
            f"is a {architecture}, whose classes nobody trained",
            where=where,
            remedy="train it as a sequence classifier, or leave task out for an embedding",
        )
    if task is TextTask.CLASSIFICATION:
        if asked.pooling:
            raise BadInput("is a classifier, which has no pooling", where=where, remedy="leave it out, or say task: embedding")
        return TextModel(folder, architecture, task)
    pooling, normalised = (Pooling(asked.pooling), False) if asked.pooling else _pooled(folder)
    return TextModel(folder, architecture, task, pooling, normalised, _sentence_length(folder))


def kept(names: Iterable[str]) -> list[str]:
    """Those that belong to a model, of paths below its folder."""
    return [name for name in names if any(fnmatch.fnmatchcase(name, one) and name.count("/") == one.count("/") for one in KEPT)]


def refuse_weights(names: Iterable[str], where: str) -> None:
    """Raises BadInput where none of a folder's files are its weights as safetensors."""
    found = sorted(names)
    if WEIGHTS in found or SHARDS in found:
        return
    pickled = next((name for name in found if any(fnmatch.fnmatchcase(name, one) for one in OTHER_WEIGHTS)), None)
    if pickled is not None:
        raise BadInput(
            f"has its weights as {pickled} alone, which may run code when it is read; it was not read",
            where=where,
            remedy=f"take a revision with {WEIGHTS}; where you trust who made it, {RESAVE}",
        )
    raise BadInput(f"has no {WEIGHTS}", where=where, remedy=f"bring it whole; {RESAVE}")


def shards_of(folder: Path) -> list[str]:
    """The names of the files that hold the weights. Raises BadInput where one of them leads elsewhere, or is missing."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    index = _read(folder / SHARDS)
    weights = index.get("weight_map")
    names = sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else []
    wrong = next((name for name in names if not fnmatch.fnmatchcase(name, "model-*-of-*.safetensors") or "/" in name), None)
    if not names or wrong is not None:
        raise BadInput(f"names {wrong or 'no files'} for its weights", where=str(folder / SHARDS), remedy="save the model again")
    missing = next((name for name in names if not (folder / name).is_file()), None)
    if missing is not None:
        raise BadInput(f"has no {missing}, which its index names", where=str(folder), remedy="bring all of its files")
    return names


def labels_of(folder: Path) -> tuple[str, ...]:
    """The classes' names in order, as the config says them; none where it names none."""
    named = _read(folder / CONFIG).get("id2label")
    return tuple(map(str, named.values())) if isinstance(named, dict) else ()


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _pooled(folder: Path) -> tuple[Pooling, bool]:
    """As sentence-transformers was told to, where it made the folder; else the mean. Raises BadInput for what it does besides."""
    if not (folder / MODULES).is_file():
        return Pooling.MEAN, False
    where = str(folder / MODULES)
    skip = "say pooling: mean or cls, and it is left out; or take another model"
    kinds = [(str(one.get("type", "")).rpartition(".")[2], str(one.get("path", ""))) for one in _list(folder / MODULES)]
    names = [kind for kind, _ in kinds]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or kinds[0][1]:
        raise BadInput(f"is made of {', '.join(names) or 'nothing'}, not of a network and its pooling", where=where, remedy=skip)
    prompt = _read(folder / PROMPTS).get("default_prompt_name") if (folder / PROMPTS).is_file() else None
    if prompt:
        raise BadInput(
            f"puts its prompt {prompt!r} before each text", where=where, remedy=f"{skip}, with the prompt in the texts"
        )
    file = folder / kinds[1][1] / CONFIG
    if not kept([f"{kinds[1][1]}/{CONFIG}"]) or not file.is_file():
        raise BadInput(f"names {kinds[1][1]!r} for its pooling, which is not there", where=where, remedy=skip)
    told = _read(file)
    modes = [str(told["pooling_mode"])] if "pooling_mode" in told else _old_modes(told)
    if len(modes) != 1 or modes[0] not in ("mean", "cls"):
        raise BadInput(f"pools by {', '.join(modes) or 'nothing'}", where=str(file), remedy=skip)
    return Pooling(modes[0]), "Normalize" in names


def _old_modes(told: Mapping[str, Any]) -> list[str]:
    """As earlier releases wrote it: a truth for each mode."""
    on = [name.removeprefix("pooling_mode_") for name, value in told.items() if name.startswith("pooling_mode_") and value]
    return [{"mean_tokens": "mean", "cls_token": "cls"}.get(name, name) for name in on]


def _sentence_length(folder: Path) -> int | None:
    """How many tokens sentence-transformers reads. Raises BadInput where it would change the text."""
    if not (folder / SENTENCES).is_file():
        return None
    told = _read(folder / SENTENCES)
    if told.get("do_lower_case"):
        raise BadInput(
            "lowers each text outside of its tokenizer", where=str(folder / SENTENCES), remedy="take a model whose tokenizer does"
        )
    length = told.get("max_seq_length")
    return length if isinstance(length, int) and length > 0 else None


def _read(file: Path) -> dict[str, Any]:
    found = _json(file)
    if not isinstance(found, dict):
        raise BadInput("is no JSON object", where=str(file), remedy="save the model again")
    return found


def _list(file: Path) -> list[dict[str, Any]]:
    found = _json(file)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadInput("is no list of modules", where=str(file), remedy="save the model again")
    return found


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > LARGEST_TEXT_BYTES:
            raise BadInput("is larger than 16 MiB", where=str(file), remedy="save the model again")
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"makes no sense: {error}".splitlines()[0], where=str(file), remedy="save the model again") from error
