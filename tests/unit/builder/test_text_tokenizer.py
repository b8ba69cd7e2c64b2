"""Text to tokens in front of a graph: pieces, padding, order, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from cluster.errors import BadArtifact, EngineFailure
from deployments.engines.port import RowsRefused
from deployments.engines.tokenizer import METADATA, PIECE_TOKENS, ModelTokenizer, TokenizerSettings, cut, tokenizer_of

WORDS = {"[UNK]": 0, "[SEP]": 1, "a": 2, "b": 3, "c": 4}


def settings(**more: object) -> TokenizerSettings:
    made = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))  # noqa: S106  a token of text
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["[SEP]"])
    made.enable_truncation(4)
    known = {"input": "text", "feeds": ("input_ids", "attention_mask"), "pad_id": 9, "max_length": 4, "tokenizer": made.to_str()}
    return TokenizerSettings.model_validate(known | more)


def tokenizer(**more: object) -> ModelTokenizer:
    return ModelTokenizer(settings(**more), where="model.onnx")


def texts(*values: str) -> np.ndarray:
    return np.array(values, object)


@pytest.mark.parametrize(
    ("lengths", "pieces"),
    [
        ([], []),
        ([3], [(0, 1)]),
        ([PIECE_TOKENS * 2], [(0, 1)]),  # a row at least
        ([2] * (PIECE_TOKENS // 2), [(0, PIECE_TOKENS // 2)]),
        ([2] * (PIECE_TOKENS // 2 + 1), [(0, PIECE_TOKENS // 2), (PIECE_TOKENS // 2, PIECE_TOKENS // 2 + 1)]),
        ([1, 1, PIECE_TOKENS, PIECE_TOKENS], [(0, 2), (2, 3), (3, 4)]),
    ],
)
def test_pieces_hold_a_bounded_number_of_tokens(lengths: list[int], pieces: list[tuple[int, int]]) -> None:
    assert cut(np.array(lengths)) == pieces


def test_rows_are_padded_to_the_longest_of_their_piece_and_cut() -> None:
    found = list(tokenizer(feeds=("input_ids", "attention_mask", "token_type_ids")).pieces(texts("a b c a b c", "z", "b a")))
    ((places, feed),) = found
    assert places.tolist() == [1, 2, 0]
    assert feed["input_ids"].tolist() == [[0, 9, 9, 9], [3, 2, 9, 9], [2, 3, 4, 2]]
    assert feed["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert feed["token_type_ids"].tolist() == [[0] * 4] * 3
    assert {value.dtype for value in feed.values()} == {np.dtype(np.int64)}


def test_answers_stand_in_the_rows_order() -> None:
    sizes: list[tuple[int, ...]] = []

    def run(feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        sizes.append(feed["input_ids"].shape)
        return [feed["attention_mask"].sum(axis=1), feed["input_ids"][:, :1].astype(np.float32)]

    rows = texts(*(["a b c a"] * 2500), "b", *(["a b"] * 10))
    lengths, firsts = tokenizer().run(run, rows)
    assert lengths.tolist() == [4] * 2500 + [1] + [2] * 10
    assert firsts[:, 0].tolist() == [2.0] * 2500 + [3.0] + [2.0] * 10
    assert sizes == [(2048, 4), (463, 4)]


def test_an_answer_without_a_row_for_each_is_the_model_s_failure() -> None:
    with pytest.raises(EngineFailure, match=r"the model gave \[1\] for 2 rows"):
        tokenizer().run(lambda _: [np.zeros(1)], texts("a", "b"))


def test_rows_without_a_token_are_refused_alone() -> None:
    with pytest.raises(RowsRefused) as caught:
        list(tokenizer().pieces(texts("a", "", "b", " ")))
    assert sorted(caught.value.rows) == [1, 3]


def test_a_special_token_s_text_is_that_token_only_where_the_model_says_so() -> None:
    for special, expected in ((True, [2, 1]), (False, [0])):
        ((_, feed),) = tokenizer(special=special).pieces(texts("a[SEP]"))
        assert feed["input_ids"].tolist() == [expected]


def test_a_file_s_tokenizer_is_taken_where_the_signature_has_its_text() -> None:
    metadata = {METADATA: settings().model_dump_json()}
    assert tokenizer_of(metadata, {"text"}, where="m") is not None
    assert tokenizer_of(metadata, {"input_ids", "attention_mask"}, where="m") is None
    assert tokenizer_of({}, {"text"}, where="m") is None
    for damaged, says in (
        ("{}", "settings make no sense"),
        (settings(tokenizer="{}").model_dump_json(), "tokenizer makes no sense"),
    ):
        with pytest.raises(BadArtifact, match=says):
            tokenizer_of({METADATA: damaged}, {"text"}, where="m")


def test_a_machine_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BadArtifact, match="the package tokenizers is not installed") as caught:
        tokenizer_of({METADATA: settings().model_dump_json()}, {"text"}, where="m")
    assert "headrace[tokenizers]" in caught.value.remedy
