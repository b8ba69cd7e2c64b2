"""The network and tokenizer as transformers itself loads and runs them: what an import is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cluster.errors import BadInput
from deployments.builder.sources.huggingface_models.folder import LARGEST_BYTES, Pooling, TextModel, TextTask
from deployments.builder.spec import HuggingfaceSource
from deployments.engines.datatypes import Array
from deployments.engines.tokenizer import Feed

LABEL, PROBABILITIES, LOGITS, PREDICTION, EMBEDDING = "label", "probabilities", "logits", "prediction", "embedding"
FEEDS: tuple[Feed, ...] = ("input_ids", "attention_mask", "token_type_ids")
# How many texts transformers itself is asked for at once.
BATCH = 32
RESAVE = "save the model again with save_pretrained"


class TextHead(Enum):
    """What the network's last layer says of a text."""

    CLASSES = "a logit each class"
    MANY_LABELS = "classes, several of which may hold"
    NUMBERS = "numbers"
    EMBEDDING = "one vector"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The network with its head, and its tokenizer, which cuts at `max_length` tokens; `classes` are empty but for a
    classifier."""

    network: torch.nn.Module
    tokenizer: Any
    feeds: tuple[Feed, ...]
    head: TextHead
    classes: tuple[str, ...]
    max_length: int


class TextNetwork(torch.nn.Module):
    """The model over tokens: int64 [rows, length] for each of the feeds; its outputs without the label."""

    def __init__(self, model: Any, feeds: Sequence[Feed], head: TextHead, asked: TextModel) -> None:
        super().__init__()
        self.model = model
        self.feeds = tuple(feeds)
        self.head = head
        self.asked = asked
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Probabilities and logits, the numbers, or the embedding."""
        given = dict(zip(self.feeds, tensors, strict=True))
        found = self.model(**given)
        if self.head is TextHead.EMBEDDING:
            return (_embedding(found.last_hidden_state, given["attention_mask"], self.asked),)
        if self.head is TextHead.NUMBERS:
            return (found.logits,)
        chances = torch.sigmoid(found.logits) if self.head is TextHead.MANY_LABELS else torch.softmax(found.logits, dim=-1)
        return (chances, found.logits)


def load(about: TextModel, asked: HuggingfaceSource) -> Loaded:
    """Reads weights, config and tokenizer, all of which are data. Raises BadInput."""
    where = str(about.folder)
    kind = AutoModelForSequenceClassification if about.task is TextTask.CLASSIFICATION else AutoModel
    try:
        model, info = kind.from_pretrained(
            where,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, local_files_only=True)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise BadInput(f"transformers can't read it: {_first(error)}", where=where, remedy=RESAVE) from error
    # A pooler is a layer of its own behind the encoder, which no embedding here reads.
    lacking = sorted(
        name for name in info["missing_keys"] if not name.startswith("pooler.") or about.task is not TextTask.EMBEDDING
    )
    lacking += sorted(str(one) for one in info["mismatched_keys"])
    if lacking:
        raise BadInput(
            f"its weights lack {lacking[0]}" + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""),
            where=where,
            remedy="name the folder of the trained model, with its head",
        )
    size = sum(item.numel() * item.element_size() for item in model.parameters())
    if size > LARGEST_BYTES:
        raise BadInput("is larger than 2 GB in fp32", where=where, remedy="take a smaller model of its kind")
    _check_tokenizer(tokenizer, model, where)
    feeds = tuple(name for name in FEEDS if name in tokenizer.model_input_names)
    head = _head(model.config, about.task)
    classes = (
        tuple(str(model.config.id2label[place]) for place in range(model.config.num_labels)) if head is TextHead.CLASSES else ()
    )
    network = TextNetwork(model, feeds, head, about)
    return Loaded(network, tokenizer, feeds, head, classes, _max_length(tokenizer, model, about, asked))


def answers(loaded: Loaded, texts: Sequence[str]) -> dict[str, Array]:
    """What transformers itself answers: its tokenizer, its padding, its network."""
    parts: list[list[Array]] = []
    for start in range(0, len(texts), BATCH):
        given = tokens(loaded, texts[start : start + BATCH])
        with torch.no_grad():
            parts.append([item.numpy() for item in loaded.network(*(given[name] for name in loaded.feeds))])
    found = dict(zip(tensors(loaded.head), (np.concatenate(column) for column in zip(*parts, strict=True)), strict=True))
    if loaded.head is not TextHead.CLASSES:
        return found
    label = np.empty(len(texts), dtype=np.object_)
    label[:] = [loaded.classes[place].encode() for place in found[LOGITS].argmax(axis=1).tolist()]
    return {LABEL: label, **found}


def tokens(loaded: Loaded, texts: Sequence[str]) -> Any:
    """The texts as transformers hands them to the network: by feed, int64 [rows, length of the longest]."""
    return loaded.tokenizer(
        list(texts), padding=True, truncation=True, max_length=loaded.max_length, return_tensors="pt", padding_side="right"
    )


def _check_tokenizer(tokenizer: Any, model: Any, where: str) -> None:
    """Raises BadInput where it can't be packed, or is none of this network's."""
    if not tokenizer.is_fast or not {"input_ids", "attention_mask"} <= set(tokenizer.model_input_names):
        raise BadInput("its tokenizer is no fast one", where=where, remedy=f"{RESAVE}, its fast tokenizer too")
    if tokenizer.pad_token_id is None:
        raise BadInput(
            "its tokenizer has no token to pad with", where=where, remedy="set tokenizer.pad_token and save the tokenizer again"
        )
    known = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= known:
        raise BadInput(
            f"its tokenizer knows {highest + 1} tokens, its network {known}",
            where=where,
            remedy="save the tokenizer that the network was trained with beside it",
        )


def _max_length(tokenizer: Any, model: Any, about: TextModel, asked: HuggingfaceSource) -> int:
    """How many tokens of a text are read: as many as the network has places for, its tokenizer keeps, and the document says."""
    places = [
        one.num_embeddings - (0 if one.padding_idx is None else one.padding_idx + 1)
        for name, one in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(one, torch.nn.Embedding)
    ]
    bound = min([tokenizer.model_max_length, *(places or [model.config.max_position_embeddings])])
    if asked.max_length is not None and asked.max_length > bound:
        raise BadInput(
            f"{asked.max_length} tokens are more than the {bound} that the model reads",
            where="source.huggingface.max_length",
            remedy=f"say {bound} at most, or leave it out",
        )
    least = tokenizer.num_special_tokens_to_add() + 1
    found = int(asked.max_length or min(bound, about.max_length or bound))
    if found < least:
        raise BadInput(
            f"{found} tokens leave no room for text: {least - 1} are the model's own",
            where="source.huggingface.max_length",
            remedy=f"say {least} at least",
        )
    return found


def _head(config: Any, task: TextTask) -> TextHead:
    if task is TextTask.EMBEDDING:
        return TextHead.EMBEDDING
    if config.problem_type == "multi_label_classification":
        return TextHead.MANY_LABELS
    return TextHead.NUMBERS if config.problem_type == "regression" or config.num_labels == 1 else TextHead.CLASSES


def _embedding(hidden: torch.Tensor, mask: torch.Tensor, about: TextModel) -> torch.Tensor:
    """[rows, length, width] to [rows, width]; padding does not count."""
    if about.pooling is Pooling.CLS:
        found = hidden[:, 0]
    else:
        counts = mask.unsqueeze(-1).to(hidden.dtype)
        found = (hidden * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1e-9)
    return torch.nn.functional.normalize(found, p=2.0, dim=1) if about.normalised else found


def tensors(head: TextHead) -> list[str]:
    """The network's own outputs, in order."""
    if head is TextHead.EMBEDDING:
        return [EMBEDDING]
    return [PREDICTION] if head is TextHead.NUMBERS else [PROBABILITIES, LOGITS]


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
