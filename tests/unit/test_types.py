"""Nouns: trees, counters, completions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evodraft.errors import PromptError
from evodraft.params import SamplingParams
from evodraft.types import ROOT, Commit, Completion, Draft, GenerationStats, Request, Verdict


@st.composite
def trees(draw) -> Draft:
    num_nodes = draw(st.integers(0, 12))
    parents = tuple(draw(st.integers(ROOT, node - 1)) for node in range(num_nodes))
    return Draft(tuple(range(num_nodes)), parents, None)


@given(trees())
def test_every_node_is_the_child_of_its_parent_only(draft: Draft) -> None:
    listed = [child for node in range(ROOT, draft.num_tokens) for child in draft.children(node)]
    assert sorted(listed) == list(range(draft.num_tokens))
    for node in range(draft.num_tokens):
        assert node in draft.children(draft.parents[node])


@given(trees())
def test_children_are_tried_in_the_order_in_which_they_were_drawn(draft: Draft) -> None:
    for node in range(ROOT, draft.num_tokens):
        assert draft.children(node) == sorted(draft.children(node))


@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_chain_has_one_child_per_node(length) -> None:
    draft = Draft.chain(range(length))
    assert draft.num_tokens == length
    assert [draft.children(node) for node in range(ROOT, length)] == [[node] for node in range(length)] + [[]]


def test_a_verdict_counts_its_path() -> None:
    assert Verdict((0, 2), (5, 6, 7)).num_accepted == 2


def test_stats_of_a_request_that_speculated() -> None:
    stats = GenerationStats(
        num_prompt_tokens=3,
        num_tokens=12,
        num_target_passes=6,
        num_rounds=4,
        num_draft_tokens=16,
        num_accepted_tokens=6,
        num_round_tokens=10,
        decode_s=2.0,
    )
    assert stats.mean_acceptance_length == 2.5
    assert stats.acceptance_rate == 0.375
    assert stats.tokens_per_target_pass == 2.0
    assert stats.tokens_per_second == 6.0


def test_stats_of_a_request_that_did_nothing() -> None:
    stats = GenerationStats(3, 0, 0, 0, 0, 0, 0)
    assert stats.mean_acceptance_length == 1.0
    assert stats.acceptance_rate == 0.0
    assert stats.tokens_per_target_pass == 0.0
    assert stats.tokens_per_second == 0.0


def test_a_refused_request_becomes_a_completion_with_its_error() -> None:
    error = PromptError("no")
    refused = Completion.refused(Request("a", (1, 2), SamplingParams(), seed=7), error)
    assert (refused.request_id, refused.finish_reason, refused.token_ids, refused.seed) == ("a", "error", (), 7)
    assert refused.stats.num_prompt_tokens == 2
    with pytest.raises(PromptError) as caught:
        refused.raise_for_error()
    assert caught.value is error


def test_a_good_completion_raises_nothing() -> None:
    stats = GenerationStats(1, 1, 1, 0, 0, 0, 0)
    good = Completion("a", "x", (1,), "length", True, stats, seed=0)
    assert good.raise_for_error() is good


def test_nouns_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Commit((1,), 0).token_ids = ()  # type: ignore[misc]
