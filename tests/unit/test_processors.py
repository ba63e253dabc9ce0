"""Processors: what each does to scores, their order, and laws that call them lazily."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from evodraft.errors import SamplingError, UserCodeError
from evodraft.params import LawParams, SamplingParams
from evodraft.processors import (
    EagerLaws,
    GreedyLaws,
    LazyLaws,
    LogitBias,
    MinimumLength,
    OccurrencePenalty,
    make_processors,
)
from evodraft.sampling import to_law
from evodraft.types import ROOT, Request

LAW = LawParams(temperature=1.0)


def lazy(processor, logits: torch.Tensor | None = None) -> LazyLaws:
    logits = torch.zeros(3, 4) if logits is None else logits
    return LazyLaws(logits, LAW, (processor,), [7, 8])


def test_logit_bias_adds_and_bans() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    assert LogitBias({0: 0.5, 2: -math.inf})(torch.tensor([[1]]), scores).tolist() == [[1.5, 2.0, -math.inf]]
    assert scores.tolist() == [[1.0, 2.0, 3.0]]


def test_occurrence_penalties_count_the_output_only() -> None:
    penalty = OccurrencePenalty(prompt_length=2, presence=1.0, frequency=0.25)
    ids = torch.tensor([[0, 0, 1, 1, 2]])
    assert penalty(ids, torch.zeros(1, 4)).tolist() == [[0.0, -1.5, -1.25, 0.0]]
    assert penalty(ids[:, :2], torch.zeros(1, 4)).tolist() == [[0.0] * 4]


def test_a_plain_request_has_no_processors() -> None:
    assert make_processors(Request("a", (1,), SamplingParams(), seed=0)) == ()
    needs_stop_ids = Request("a", (1,), SamplingParams(min_new_tokens=3), seed=0)
    assert make_processors(needs_stop_ids) == ()


def test_processors_come_in_transformers_order_and_the_callers_last() -> None:
    def own(input_ids, scores):
        return scores

    params = SamplingParams(
        logit_bias={1: 2.0}, repetition_penalty=1.5, presence_penalty=1.0, min_new_tokens=2, frequency_penalty=0.5
    )
    request = Request("a", (1, 2), params, 0, stop_token_ids=frozenset({3}), logits_processors=(own,))
    made = make_processors(request)
    assert [processor.__class__ for processor in made[:-1]] == [
        LogitBias,
        RepetitionPenaltyLogitsProcessor,
        OccurrencePenalty,
        MinimumLength,
    ]
    assert made[-1] is own


def test_eager_laws_are_rows() -> None:
    laws = torch.eye(3)
    assert EagerLaws(laws).at(ROOT, []).tolist() == [1.0, 0.0, 0.0]
    assert EagerLaws(laws).at(1, [5, 5]).tolist() == [0.0, 0.0, 1.0]


def test_lazy_laws_show_the_prefix_of_each_position_and_its_own_row() -> None:
    seen = []

    def note(input_ids, scores):
        seen.append((input_ids.tolist(), scores.tolist()))
        return scores + torch.tensor([[0.0, 1.0, 0.0, 0.0]])

    logits = torch.arange(12.0).reshape(3, 4)
    laws = lazy(note, logits)
    assert seen == []
    law = laws.at(1, [5, 6])
    assert seen == [([[7, 8, 5, 6]], [[8.0, 9.0, 10.0, 11.0]])]
    assert torch.equal(law, to_law(torch.tensor([8.0, 10.0, 10.0, 11.0]), LAW))


@pytest.mark.parametrize(("given", "seen"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_processors_get_float32_or_wider(given, seen) -> None:
    def check(input_ids, scores):
        assert scores.dtype == seen
        return scores

    assert lazy(check, torch.zeros(3, 4, dtype=given)).at(ROOT, []).tolist() == [0.25] * 4


def raises(input_ids, scores):
    raise KeyError("gone")


def wrong_shape(input_ids, scores):
    return scores[:, :2]


def no_tensor(input_ids, scores):
    return None


def bans_all(input_ids, scores):
    return torch.full_like(scores, -math.inf)


def nan(input_ids, scores):
    return scores * math.nan


class Callable:
    def __call__(self, input_ids, scores):
        raise ValueError


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (raises, r"logits processor raises raised KeyError\('gone'\); fix it or leave it out"),
        (wrong_shape, r"logits processor wrong_shape returned \(1, 2\); it must return scores \(1, 4\)"),
        (no_tensor, r"logits processor no_tensor returned NoneType; it must return scores \(1, 4\)"),
        (bans_all, r"left no usable token at position 2 \(largest score -inf\); allow at least one id"),
        (nan, r"left no usable token at position 2 \(largest score nan\)"),
        (Callable(), r"logits processor Callable raised ValueError"),
    ],
)
def test_faults_of_the_caller_are_named(processor, message) -> None:
    with pytest.raises(UserCodeError, match=message):
        lazy(processor).at(ROOT, [])


def test_our_own_errors_pass_through() -> None:
    def refuse(input_ids, scores):
        raise SamplingError("by a processor of ours")

    with pytest.raises(SamplingError, match="by a processor of ours"):
        lazy(refuse).at(ROOT, [])


def test_a_processor_that_writes_in_place_leaves_the_raw_logits_alone() -> None:
    def bans(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, 0] = -torch.inf
        return scores

    logits = torch.tensor([[3.0, 1.0, 2.0]])
    laws = LazyLaws(logits, LAW, (bans,), [7, 8])
    assert laws.at(ROOT, [])[0] == 0
    assert logits.tolist() == [[3.0, 1.0, 2.0]]


def test_minimum_length_bans_stop_ids_until_it_is_reached() -> None:
    processor = MinimumLength(length=3, stop_ids=(1, 9))  # 9 is beyond the vocabulary
    scores = torch.zeros(1, 4)
    assert processor(torch.tensor([[5, 5]]), scores).tolist() == [[0.0, -torch.inf, 0.0, 0.0]]
    assert processor(torch.tensor([[5, 5, 5]]), scores).tolist() == [[0.0] * 4]


def test_greedy_laws_are_sure_of_what_their_law_is_certain_of() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [5.0, -1.0, 0.0]])
    laws = GreedyLaws(logits, logits.argmax(dim=-1).tolist())
    assert [laws.sure(node, []) for node in (ROOT, 0)] == [1, 0]
    for node in (ROOT, 0):
        law = laws.at(node, [])
        assert law.sum() == 1.0
        assert int(law.argmax()) == laws.sure(node, [])


def test_other_laws_are_sure_of_nothing() -> None:
    logits = torch.zeros(1, 3)
    assert EagerLaws(logits).sure(ROOT, []) is None
    assert lazy(lambda ids, scores: scores).sure(ROOT, []) is None
