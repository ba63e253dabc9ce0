"""Prompt lookup."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evodraft.drafters import NgramConfig, NgramDrafter
from evodraft.drafters.base import DrafterContext, DraftRow
from evodraft.drafters.ngram import plan_ngram_drafter
from evodraft.drafters.vocabulary import Vocabulary
from evodraft.errors import ConfigError
from evodraft.types import Update, Versions


def offer(tokens, drafted=(), config: NgramConfig | None = None):
    (token_id,) = NgramDrafter(config or NgramConfig()).step([DraftRow(0, list(tokens), list(drafted))]).token_ids
    return token_id


def by_definition(committed, drafted, config: NgramConfig):
    """The token after the latest earlier place of the longest matching tail."""
    text = [*committed, *drafted]
    for size in range(config.max_ngram, config.min_ngram - 1, -1):
        if size > len(text):
            continue
        for position in range(len(committed) - 1, size - 1, -1):
            if committed[position - size : position] == text[-size:]:
                return committed[position]
    return None


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=20),
    st.lists(st.integers(0, 2), max_size=3),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_offers_are_those_of_the_definition(committed, drafted, minimum, more) -> None:
    config = NgramConfig(minimum + more, minimum)
    assert offer(committed, drafted, config) == by_definition(committed, drafted, config)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=25), st.integers(1, 24))
def test_an_index_that_grows_is_an_index_made_at_once(tokens, split) -> None:
    drafter = NgramDrafter(NgramConfig(3, 1))
    drafter.step([DraftRow(0, tokens[: min(split, len(tokens) - 1)])])
    assert drafter.step([DraftRow(0, tokens)]).token_ids[0] == offer(tokens, config=NgramConfig(3, 1))


def test_the_longest_match_wins_over_the_latest() -> None:
    assert offer([1, 2, 3, 7, 9, 3, 8, 1, 2, 3]) == 7


def test_drafts_are_continued_but_never_searched() -> None:
    assert offer([5, 6, 7, 8, 5, 6], drafted=[7]) == 8
    assert offer([5, 6], drafted=[5, 6]) is None


def test_rows_are_searched_apart() -> None:
    drafter = NgramDrafter()
    step = drafter.step([DraftRow(0, [1, 2, 3, 1, 2]), DraftRow(1, [1, 2]), DraftRow(2, [4])])
    assert step.token_ids == (3, None, None)
    drafter.release(0)
    drafter.release(5)
    assert drafter.step([DraftRow(0, [1, 2])]).token_ids == (None,)


@pytest.mark.parametrize("values", [{"max_ngram": 0}, {"min_ngram": 65}, {"max_ngram": 1}])
def test_wrong_options(values) -> None:
    with pytest.raises(ConfigError, match=r"min_ngram=2 exceeds max_ngram=1|choose one within"):
        NgramConfig(**values)


def test_updates_are_refused() -> None:
    with pytest.raises(ConfigError, match="n-gram drafts have no weights"):
        NgramDrafter().apply(Update(Versions(1, 0), None))


def test_a_plan_takes_no_memory() -> None:
    plan = plan_ngram_drafter(NgramConfig(5, 2), DrafterContext(None, 9, torch.device("cpu"), torch.float32))
    assert plan.bytes_per_token == 0
    assert plan.make(8, 100, None).config == NgramConfig(5, 2)


def test_a_vocabulary_would_do_nothing() -> None:
    ids = Vocabulary((1, 2), "map.json")
    context = DrafterContext(None, 9, torch.device("cpu"), torch.float32, vocabulary=ids)
    with pytest.raises(ConfigError, match=r"a vocabulary \(map.json\) was named and the drafter is 'ngram'"):
        plan_ngram_drafter(NgramConfig(), context)
