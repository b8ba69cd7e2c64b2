"""Text to tokens in front of a graph that reads tokens: the tokenizer is part of the model file.

It lies in an ONNX file's metadata, so that what is verified, copied and compressed is one file. Rows are put to the graph beside
others of about their length, so many that a piece holds a bounded number of tokens, padding among them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import BadArtifact, BadInput, EngineFailure
from deployments.engines.datatypes import Array
from deployments.engines.port import RowsRefused

METADATA = "headrace.tokenizer"
# A piece's tokens, padding among them: attention needs memory by the square of a row's length.
PIECE_TOKENS = 8192
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
Feed = Literal["input_ids", "attention_mask", "token_type_ids"]
Run = Callable[[Mapping[str, Array]], list[Array]]


class TokenizerSettings(BaseModel):
    """What an ONNX file's metadata says of its tokenizer. `input` is the signature's text, `feeds` are the graph's own inputs.

    `tokenizer` is a tokenizer.json, which cuts at `max_length` tokens itself. `special` says whether a special token's text
    within a row, such as [SEP], is that token; else it is plain text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str
    feeds: tuple[Feed, ...]
    pad_id: int
    pad_type: int = 0
    max_length: int
    special: bool = True
    tokenizer: str


class ModelTokenizer:
    """The tokenizer of one model file. May be called from several threads at a time."""

    def __init__(self, settings: TokenizerSettings, *, where: str) -> None:
        """Raises BadArtifact, naming `where`, where the library is missing or takes the tokenizer for none."""
        # Read at each call: without it one replica's tokenizer takes every core of its machine.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            # Only for models that read text so.
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise BadArtifact(
                "its text is read by a tokenizer, and the package tokenizers is not installed",
                where=where,
                remedy="pip install 'headrace[tokenizers]' there",
            ) from error
        self.settings = settings
        try:
            self._tokenizer = Tokenizer.from_str(settings.tokenizer)
        except Exception as error:  # the library raises Exception itself
            raise BadArtifact(f"its tokenizer makes no sense: {error}", where=where, remedy="build it again") from error
        self._tokenizer.encode_special_tokens = not settings.special

    def run(self, run: Run, texts: Array) -> list[Array]:
        """What `run` answers to the texts [n], in their order. Raises RowsRefused for texts without a token, EngineFailure where
        an answer has not a row for each."""
        whole: list[Array] = []
        for places, feed in self.pieces(texts):
            answers = run(feed)
            if not whole:
                whole = [np.empty((len(texts), *answer.shape[1:]), answer.dtype) for answer in answers]
            for all_rows, answer in zip(whole, answers, strict=True):
                if answer.shape != (len(places), *all_rows.shape[1:]):
                    raise EngineFailure(f"the model gave {list(answer.shape)} for {len(places)} rows")
                all_rows[places] = answer
        return whole

    def pieces(self, texts: Array) -> Iterator[tuple[Array, dict[str, Array]]]:
        """The texts [n], str, as the graph reads them, shortest first: their places, and int64 [rows, length] by input."""
        found = self._tokenizer.encode_batch_fast(texts.ravel().tolist())
        lengths = np.array([len(one) for one in found])
        if not lengths.all():
            raise RowsRefused.of({int(row): _no_token(self.settings.input) for row in np.flatnonzero(lengths == 0)})
        order = np.argsort(lengths, kind="stable")
        for start, end in cut(lengths[order]):
            places = order[start:end]
            shape = (len(places), int(lengths[places[-1]]))
            feed = {name: np.full(shape, fill, np.int64) for name, fill in self._fills().items()}
            for row, place in enumerate(places.tolist()):
                one, length = found[place], int(lengths[place])
                feed[IDS][row, :length] = one.ids
                feed[MASK][row, :length] = 1
                if TYPES in feed:
                    feed[TYPES][row, :length] = one.type_ids
            yield places, {name: feed[name] for name in self.settings.feeds}

    def _fills(self) -> dict[str, int]:
        """What stands where a row has no token."""
        types: dict[str, int] = {TYPES: self.settings.pad_type} if TYPES in self.settings.feeds else {}
        return {IDS: self.settings.pad_id, MASK: 0, **types}


def tokenizer_of(metadata: Mapping[str, str], inputs: Set[str], *, where: str) -> ModelTokenizer | None:
    """The tokenizer in a model file's metadata, where it reads one of `inputs`. Raises BadArtifact."""
    if METADATA not in metadata:
        return None
    try:
        settings = TokenizerSettings.model_validate_json(metadata[METADATA])
    except ValidationError as error:
        raise BadArtifact(
            "its tokenizer's settings make no sense", where=where, remedy="use the Headrace release that built it"
        ) from error
    return ModelTokenizer(settings, where=where) if settings.input in inputs else None


def cut(lengths: Array) -> list[tuple[int, int]]:
    """Where the pieces begin and end, for rows of these lengths, which rise: a row at least, PIECE_TOKENS at most."""
    found: list[tuple[int, int]] = []
    start = 0
    for end, length in enumerate(lengths.tolist()):
        if end > start and (end + 1 - start) * length > PIECE_TOKENS:
            found.append((start, end))
            start = end
    return [*found, (start, len(lengths))] if len(lengths) else []


def _no_token(name: str) -> BadInput:
    return BadInput(f"input {name!r} has no token that the model knows of", remedy="send a text that is not empty")
