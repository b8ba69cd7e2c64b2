"""Small text models as transformers saves them: trained for seconds, with a tokenizer trained on the same real text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import sklearn.datasets
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForSequenceClassification, DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

LABELS = ("cancer", "faces", "intrusion")
MAX_LENGTH = 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def sentences() -> list[tuple[str, int]]:
    """Sentences of scikit-learn's descriptions of its data sets, and which set each is of."""
    found = []
    for label, name in enumerate(("breast_cancer", "lfw", "kddcup99")):
        text = (Path(sklearn.datasets.__file__).parent / "descr" / f"{name}.rst").read_text(encoding="utf-8")
        found += [(" ".join(one.split()), label) for one in re.split(r"(?<=[.:])\s+|\n\n", text) if len(one.split()) > 3]
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer as BERT's."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  a token of text
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator([text for text, _ in sentences()], trainer)
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=MAX_LENGTH, **names)


def config(**more: Any) -> DistilBertConfig:
    """Of a network of two layers."""
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": MAX_LENGTH}
    return DistilBertConfig(vocab_size=600, dropout=0.0, attention_dropout=0.0, **sizes, **more)


def write_classifier(folder: Path) -> None:
    """A DistilBERT that tells which data set a sentence is about."""
    torch.manual_seed(0)
    words, rows = tokenizer(), sentences()
    network: Any = AutoModelForSequenceClassification.from_config(
        config(id2label=dict(enumerate(LABELS)), label2id={name: place for place, name in enumerate(LABELS)})
    )
    given = words([text for text, _ in rows], padding=True, truncation=True, return_tensors="pt")
    given.pop("token_type_ids", None)
    truth = torch.tensor([label for _, label in rows])
    steps = torch.optim.AdamW(network.parameters(), lr=2e-3)  # faster, and some seeds end where int8 tips every tenth answer
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for each other, with so little to do
    network.train()
    for _ in range(150):
        steps.zero_grad()
        network(**given, labels=truth).loss.backward()
        steps.step()
    torch.set_num_threads(threads)
    network.save_pretrained(folder)
    words.save_pretrained(folder)


def write_encoder(folder: Path) -> None:
    """A DistilBERT without a head, as sentence-transformers keeps one: its first token's vector, as long as 1."""
    torch.manual_seed(1)
    DistilBertModel(config()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    write_modules(
        folder, ["Transformer", "Pooling", "Normalize"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    )


def write_modules(folder: Path, kinds: list[str], pooling: dict[str, Any]) -> None:
    """What sentence-transformers writes beside a network."""
    paths = ["" if kind == "Transformer" else f"{place}_{kind}" for place, kind in enumerate(kinds)]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
