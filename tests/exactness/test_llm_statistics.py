"""The numbers that come back, recomputed by hand from a scripted run: a drafter that is right and wrong on command."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import pytest
import torch

from evodraft import LLM, GenerationStats
from evodraft.testing import ScriptedController, ScriptedDrafter
from evodraft.testing.pairs import TinyPair, tiny_pair

PROMPT: Final = (40, 12, 77, 33)
NUM_TOKENS: Final = 12
WRONG: Final = (5, 8)  # output positions that the drafter guesses wrong


@functools.cache
def pair() -> TinyPair:
    return tiny_pair("gemma", seed=1)


@functools.cache
def truth() -> tuple[int, ...]:
    """What plain greedy decoding says; no token occurs twice, so that every one can serve as a stop id."""
    ids = torch.tensor([PROMPT])
    output = pair().target.generate(ids, max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0)
    new: list[int] = output[0, len(PROMPT) :].tolist()
    assert len(set(new)) == NUM_TOKENS
    return tuple(new)


def script(context: tuple[int, ...]) -> int | None:
    """The truth, but another id at WRONG positions and behind them."""
    position = len(context) - len(PROMPT)
    if position >= NUM_TOKENS:
        return None
    is_right = context[len(PROMPT) :] == truth()[:position] and position not in WRONG
    return truth()[position] if is_right else (truth()[position] + 1) % 256


def llm_of(widths: Sequence[int]) -> LLM:
    drafter = ScriptedDrafter(script, pair().target.config.vocab_size)
    return LLM.from_pretrained(
        (pair().target, pair().tokenizer), drafter=drafter, controller=ScriptedController(widths)
    )


def stats_of(widths: Sequence[int], **options: Any) -> GenerationStats:
    [out] = llm_of(widths).generate(prompt_token_ids=[PROMPT], **({"max_new_tokens": NUM_TOKENS} | options))
    assert out.token_ids == truth()[: len(out.token_ids)]
    return out.stats


def test_definitions_by_hand() -> None:
    """Five passes:

    | width | drafted | right | committed                              |
    |-------|---------|-------|----------------------------------------|
    | 3     | 3       | 3     | 4, the target's own token included     |
    | 0     | 0       | 0     | 1: a pass and no round                 |
    | 2     | 2       | 0     | 1: position 5 is guessed wrong         |
    | 4     | 4       | 2     | 3: position 8 is guessed wrong         |
    | 3     | 2       | 2     | 3: only three tokens are still wanted  |
    """
    stats = stats_of([3, 0, 2, 4, 3])
    assert stats.num_prompt_tokens == len(PROMPT)
    assert stats.num_tokens == 12
    assert stats.num_target_passes == 5
    assert stats.num_rounds == 4
    assert stats.num_draft_tokens == 3 + 2 + 4 + 2
    assert stats.num_accepted_tokens == 3 + 0 + 2 + 2
    assert stats.num_round_tokens == 4 + 1 + 3 + 3
    assert stats.accepted_per_position == (3, 3, 1)
    assert stats.mean_acceptance_length == 11 / 4, "rounds with drafts only"
    assert stats.acceptance_rate == 7 / 11, "the target's own tokens do not count"
    assert stats.tokens_per_target_pass == 12 / 5, "all passes"
    assert stats.num_fallbacks == 0


def test_plain_decoding_is_one() -> None:
    stats = stats_of([3, 0, 2, 4, 3], speculative=False)
    assert (stats.num_rounds, stats.num_draft_tokens, stats.num_target_passes) == (0, 0, NUM_TOKENS)
    assert (stats.mean_acceptance_length, stats.acceptance_rate, stats.tokens_per_target_pass) == (1.0, 0.0, 1.0)


def test_a_draft_ends_at_a_stop_id_and_what_follows_is_not_counted() -> None:
    """The second guess is the stop id: two drafted, two accepted, two committed, no token of the target's own."""
    stats = stats_of([5], stop_token_ids=[truth()[1]])
    assert (stats.num_draft_tokens, stats.num_accepted_tokens, stats.num_tokens) == (2, 2, 2)
    assert (stats.num_target_passes, stats.num_rounds, stats.num_round_tokens) == (1, 1, 2)
    assert stats.accepted_per_position == (1, 1)


def test_tokens_behind_a_criterion_are_drafted_and_never_output() -> None:
    """Five guesses are verified and right; the caller ends after two."""

    def at_two(input_ids: torch.Tensor, scores: None) -> bool:
        return input_ids.shape[1] == len(PROMPT) + 2

    llm = llm_of([5])
    [out] = llm.generate(prompt_token_ids=[PROMPT], max_new_tokens=NUM_TOKENS, stopping_criteria=[at_two])
    assert out.token_ids == truth()[:2]
    assert (out.stats.num_draft_tokens, out.stats.num_accepted_tokens, out.stats.num_tokens) == (5, 2, 2)
    assert out.stats.mean_acceptance_length == 2.0
    assert (llm.metrics.num_tokens, llm.metrics.num_accepted_tokens) == (2, 2)


def test_rejected_tokens_are_never_output() -> None:
    stats = stats_of([8], max_new_tokens=6)
    assert (stats.num_draft_tokens, stats.num_accepted_tokens, stats.num_tokens) == (5, 5, 6)
    stats = stats_of([8], max_new_tokens=8)
    assert (stats.num_draft_tokens, stats.num_accepted_tokens) == (7 + 1, 5 + 1), "seven guesses, the sixth is wrong"
    assert (stats.num_tokens, stats.num_round_tokens) == (8, 8)


def test_the_engine_adds_up_its_requests() -> None:
    llm = llm_of([3, 0, 2, 4, 3])
    outs = llm.generate(prompt_token_ids=[PROMPT] * 3, max_new_tokens=NUM_TOKENS)
    metrics = llm.metrics
    assert metrics.num_tokens == sum(out.stats.num_tokens for out in outs) == 36
    assert metrics.num_target_passes == sum(out.stats.num_target_passes for out in outs) == 15
    assert metrics.num_drafts == sum(out.stats.num_rounds for out in outs) == 12
    assert metrics.num_draft_tokens == sum(out.stats.num_draft_tokens for out in outs) == 33
    assert metrics.num_accepted_tokens == sum(out.stats.num_accepted_tokens for out in outs) == 21
    assert metrics.accepted_per_position == [9, 9, 3]


def test_speed_is_tokens_over_seconds_of_decoding() -> None:
    stats = stats_of([3])
    assert stats.decode_s > 0.0
    assert stats.tokens_per_second == stats.num_tokens / stats.decode_s


@pytest.mark.parametrize("num_rivals", [0, 2])
def test_log_probabilities_are_the_raw_ones_and_cut_with_the_tokens(num_rivals: int) -> None:
    [out] = llm_of([4]).generate(
        prompt_token_ids=[PROMPT], max_new_tokens=NUM_TOKENS, logprobs=num_rivals, stop_token_ids=[truth()[6]]
    )
    assert out.token_ids == truth()[:6]
    assert out.logprobs is not None
    with torch.no_grad():
        logits = pair().target(torch.tensor([[*PROMPT, *truth()]])).logits[0, len(PROMPT) - 1 :]
    law = logits.log_softmax(-1)
    assert [entry.token_id for entry in out.logprobs] == list(out.token_ids)
    for position, entry in enumerate(out.logprobs):
        assert entry.logprob == pytest.approx(law[position, entry.token_id].item(), abs=1e-4)
        assert list(entry.top) == law[position].topk(num_rivals).indices.tolist()
