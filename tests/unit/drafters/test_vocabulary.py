"""Vocabularies: which ids are drafted, and which maps fit a target."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken

from evodraft.config import parse_part
from evodraft.drafters.token_map import write_token_map
from evodraft.drafters.vocabulary import (
    VOCABULARIES,
    StaticConfig,
    Vocabulary,
    VocabularyContext,
    check_fits,
    ranked_ids,
    required_ids,
    static_vocabulary,
)
from evodraft.errors import ConfigError, ModelMismatchError, WeightsError
from evodraft.testing.tokenizers import byte_tokenizer

CONTEXT = VocabularyContext(vocab_size=20, required=frozenset({2, 19}))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write_token_map(tmp_path / "map.json", [9, 4, 2, 7, 1])
    return tmp_path / "map.json"


@pytest.mark.parametrize(
    ("size", "ids"),
    [
        (None, (1, 2, 4, 7, 9, 19)),
        (6, (1, 2, 4, 7, 9, 19)),
        (9, (1, 2, 4, 7, 9, 19)),
        (4, (2, 4, 9, 19)),
        (3, (2, 9, 19)),
        (2, (2, 19)),
    ],
)
def test_the_most_frequent_ids_and_those_that_must_be_in(stored: Path, size: int | None, ids: tuple[int, ...]) -> None:
    vocabulary = static_vocabulary(StaticConfig(stored, size), CONTEXT)
    assert vocabulary == Vocabulary(ids, f"map.json, {len(ids)} of 20 ids")
    assert vocabulary.size == len(ids)


def test_the_map_that_comes_with_the_target(stored: Path) -> None:
    context = VocabularyContext(vocab_size=10, bundled=stored)
    assert static_vocabulary(StaticConfig(), context).ids == (1, 2, 4, 7, 9)
    with pytest.raises(ConfigError, match="no token map|has none bundled; make one with 'evodraft train vocabulary"):
        static_vocabulary(StaticConfig(), VocabularyContext(vocab_size=10))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (StaticConfig(size=1), ConfigError, r"size=1 does not hold the 2 ids .*; take at least 2"),
        (StaticConfig("~/nowhere.json"), WeightsError, "there is no token map /"),
        (StaticConfig("nowhere.csv"), ConfigError, "nowhere.csv is no token map"),
    ],
)
def test_what_cannot_be_chosen(stored: Path, config: StaticConfig, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        static_vocabulary(config, VocabularyContext(20, CONTEXT.required, stored))


@pytest.mark.parametrize("ids", [[3, 20], [-1, 3]])
def test_a_map_of_another_model(tmp_path: Path, ids: list[int]) -> None:
    write_token_map(tmp_path / "map.txt", ids)
    with pytest.raises(ModelMismatchError, match=r"the target has 0 \.\. 19; it was made for another model: make one"):
        static_vocabulary(StaticConfig(tmp_path / "map.txt"), CONTEXT)
    with pytest.raises(ModelMismatchError, match="mine lists the token ids"):
        check_fits(ids, 20, "mine")


@pytest.mark.parametrize("ids", [(), (-1, 2), (2, 2), (3, 2)])
def test_a_vocabulary_ascends(ids: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="none, negative or do not ascend; sort them, each id once"):
        Vocabulary(ids, "mine")


def test_sizes_are_whole_numbers() -> None:
    for size in (0, 2.5, True):
        with pytest.raises(ConfigError, match=r"is not a whole number from 1 to"):
            StaticConfig(size=size)


def test_required_ids_come_last_if_they_are_not_ranked() -> None:
    assert ranked_ids([5, 3, 8], [], 2) == [5, 3]
    assert ranked_ids([5, 3, 8], [9, 8, 7], 4) == [5, 8, 7, 9]


def test_special_and_chat_tokens_are_required() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|turn|>"), AddedToken("<|unused|>"), AddedToken("<|tool|>")])
    assert required_ids(tokenizer, 264) == {256}
    tokenizer.chat_template = "<|turn|>{{ messages }}<|tool|>"
    assert required_ids(tokenizer, 264, ends=[5]) == {5, 256, 257, 259}
    assert required_ids(tokenizer, 258) == {256, 257}, "what the target has no column for cannot be said"
    assert required_ids(None, 10, [3, 12]) == {3}


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        ("static", StaticConfig()),
        ("static:a/b.json", StaticConfig("a/b.json")),
        ({"name": "static", "path": "a.pt", "size": 8}, StaticConfig("a.pt", 8)),
        (StaticConfig("a.pt"), StaticConfig("a.pt")),
    ],
)
def test_names_and_configs(spec: object, config: StaticConfig) -> None:
    assert parse_part("vocabulary", spec, VOCABULARIES) == (VOCABULARIES["static"], config)
