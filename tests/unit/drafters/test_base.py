"""Rows of a draft, and what may be grown."""

from __future__ import annotations

import pytest

from evodraft.drafters.base import DraftRow, Grown
from evodraft.errors import ConfigError


@pytest.mark.parametrize("start", range(7))
def test_tokens_from_any_position(start) -> None:
    row = DraftRow(0, [1, 2, 3], [4, 5])
    assert row.length == 5
    assert row.tokens_from(start) == [1, 2, 3, 4, 5][start:]


@pytest.mark.parametrize(
    ("parents", "depth", "is_chain"),
    [((), 0, True), ((-1,), 1, True), ((-1, 0, 1), 3, True), ((-1, -1), 1, False), ((-1, 0, 0, 1), 3, False)],
)
def test_facts_of_what_was_grown(parents, depth, is_chain) -> None:
    grown = Grown(tuple(range(len(parents))), parents)
    assert (grown.num_tokens, grown.depth, grown.is_chain) == (len(parents), depth, is_chain)


@pytest.mark.parametrize(
    ("token_ids", "parents", "message"),
    [
        ((1, 2, 1), (-1, -1, -1), "equal siblings"),
        ((1, 2, 3, 3), (-1, 0, 0, 0), "equal siblings"),
        ((1, 2), (-1, 1), "names parent 1"),
        ((1, 2), (-1, -2), "names parent -2"),
        ((1, 2), (-1,), "one parent"),
        ((1,), (-1, 0), "one parent"),
    ],
)
def test_what_is_no_tree_of_different_siblings_is_refused(token_ids, parents, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Grown(token_ids, parents)


def test_a_token_may_stand_again_elsewhere() -> None:
    assert Grown((1, 1, 1), (-1, 0, 1)).depth == 3
    assert Grown((1, 2, 1, 1), (-1, -1, 0, 1)).num_tokens == 4
