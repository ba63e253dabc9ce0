"""Tokenizers are compared by what their ids mean, not by sizes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from evodraft.drafters.pairing import check_same_tokens
from evodraft.errors import ModelMismatchError
from evodraft.testing.tokenizers import byte_tokenizer


def speaking(*tokens: str | None) -> Any:
    """A tokenizer whose id i means tokens[i]; None = no such id."""
    vocabulary = {token: token_id for token_id, token in enumerate(tokens) if token is not None}
    return SimpleNamespace(get_vocab=lambda: vocabulary)


@pytest.mark.parametrize("num_embeddings", [257, 264, 100_000])
def test_the_same_tokens_pass_whatever_the_padding(num_embeddings: int) -> None:
    check_same_tokens(byte_tokenizer(), byte_tokenizer(), num_embeddings)


def test_ids_that_only_one_side_knows_pass() -> None:
    """Special tokens differ within a family; such an id is never guessed, or guessed badly."""
    check_same_tokens(speaking("a", "b", "<tool>"), speaking("a", "b"), num_draft_embeddings=3)
    check_same_tokens(speaking("a", "b"), speaking("a", "b", "<tool>"), num_draft_embeddings=3)
    check_same_tokens(speaking("a", None, "c"), speaking("a", "b", "c"), num_draft_embeddings=3)


def test_ids_that_differ_are_shown_and_counted() -> None:
    with pytest.raises(ModelMismatchError) as raised:
        check_same_tokens(speaking("a", "b", "c", "d"), speaking("a", "c", "b", "d"), num_draft_embeddings=4)
    assert str(raised.value) == (
        "2 of 4 token ids differ between target and draft (id 1: target 'b', draft 'c', id 2: target 'c', draft 'b'); "
        "use a draft model of the same family, or drafter='ngram', which needs no model"
    )


def test_of_many_that_differ_the_first_five_are_shown() -> None:
    letters = "abcdefghij"
    with pytest.raises(ModelMismatchError, match="^10 of 10 token ids differ") as raised:
        check_same_tokens(speaking(*letters), speaking(*letters.upper()), num_draft_embeddings=10)
    assert re.findall(r"id (\d+)", str(raised.value)) == ["0", "1", "2", "3", "4"]


def test_equal_sizes_do_not_make_equal_tokens() -> None:
    with pytest.raises(ModelMismatchError, match="3 of 3 token ids differ"):
        check_same_tokens(speaking("a", "b", "c"), speaking("b", "c", "a"), num_draft_embeddings=3)


@pytest.mark.parametrize("num_embeddings", [1, 2])
def test_a_token_without_an_embedding_row(num_embeddings: int) -> None:
    with pytest.raises(ModelMismatchError) as raised:
        check_same_tokens(speaking("a", "b", "c"), speaking("a", "b", "c"), num_embeddings)
    assert str(raised.value) == (
        f"target id 2 ('c') has no row in the draft model's embedding of {num_embeddings} rows; "
        "use a draft model whose embedding covers the target's tokenizer"
    )
