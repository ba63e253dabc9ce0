"""Warpers that become our law give the same law; lengths, end ids and padding are read as transformers means them."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitNormalization,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from evodraft.integrations.transformers.translation import Translated, split_warpers, translated
from evodraft.params import SamplingParams
from evodraft.sampling import to_law

T, K, P, M = TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper
PENALTY: Final = RepetitionPenaltyLogitsProcessor(1.3)
WHOLE: Final[list[list[Any]]] = [
    [],
    [T(0.3)],
    [T(2.5), K(7)],
    [K(1)],
    [K(10**6)],
    [P(0.4)],
    [P(0.999)],
    [P(1.0)],
    [M(0.1)],
    [M(0.0)],
    [M(1.0)],
    [T(0.7), K(20), P(0.9), M(0.05)],
    [T(1.4), P(0.8), M(0.2)],
    [K(12), M(0.3)],
]


def law_of(split: Any) -> Any:
    return SamplingParams(**{"temperature": 1.0, **split.law}).law


@pytest.mark.parametrize("warpers", WHOLE, ids=lambda warpers: "-".join(type(item).__name__[:4] for item in warpers))
def test_laws_are_equal(warpers: list[Any]) -> None:
    """On rows flat and sharp, with ids that are already banned."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((60, 300), generator=generator) * torch.logspace(-1, 1.3, 60)[:, None]
    rows[::3, ::4] = -torch.inf
    split = split_warpers(warpers)
    assert split.remaining == []
    theirs = LogitsProcessorList(warpers)(torch.zeros((60, 1), dtype=torch.long), rows.clone()).softmax(dim=-1)
    ours = to_law(rows, law_of(split))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert torch.equal(ours > 0, theirs > 0), "the same tokens are possible"


def test_ties_at_the_edge_of_top_p_keep_the_same_mass() -> None:
    """Which of equally likely tokens stays is up to a sort, theirs and ours; how many stay, and their mass, is not."""
    row = torch.tensor([[2.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    theirs = P(0.6)(torch.zeros((1, 1), dtype=torch.long), row).softmax(dim=-1)
    ours = to_law(row, law_of(split_warpers([P(0.6)])))
    torch.testing.assert_close(ours.sort().values, theirs.sort().values)
    assert 2 <= int((ours > 0).sum()) < 5, "nothing was cut within the ties"


@pytest.mark.parametrize(
    ("processors", "num_remaining", "names"),
    [
        ([PENALTY, T(0.5), K(3)], 1, {"temperature", "top_k"}),
        ([K(3), T(0.5)], 1, {"temperature"}),  # not our order: top-k acts first
        ([T(0.5), T(0.6)], 1, {"temperature"}),
        ([T(0.5), PENALTY], 2, set()),
        ([T(0.5), TypicalLogitsWarper(0.9), P(0.9)], 2, {"top_p"}),
        ([T(0.5), LogitNormalization()], 2, set()),
        ([T(0.5), P(0.9, min_tokens_to_keep=2)], 2, set()),
        ([T(0.5), K(3, filter_value=-5.0)], 2, set()),
        ([T(500.0), K(3)], 1, {"top_k"}),  # hotter than SamplingParams allows
        ([P(0.0)], 1, set()),  # the best token alone; our top_p begins above zero
    ],
)
def test_what_our_law_cannot_say_stays_a_processor(processors: list[Any], num_remaining: int, names: set[str]) -> None:
    split = split_warpers(processors)
    assert split.remaining == processors[:num_remaining]
    assert set(split.law) == names


def test_a_subclass_stays_a_processor() -> None:
    class Other(TemperatureLogitsWarper):
        pass

    assert split_warpers([Other(0.5)]).law == {}


def translate(config: GenerationConfig, processors: Any = (), criteria: Any = ()) -> Translated:
    return translated(config, processors, criteria, prompt_length=10, vocab_size=50)


def test_greedy_keeps_its_processors() -> None:
    config = GenerationConfig(do_sample=False, max_length=14)
    call = translate(config, [PENALTY, T(0.5)])
    assert (call.options["temperature"], len(call.processors)) == (0.0, 2)


def test_scores_are_wanted_with_the_warpers_in_them() -> None:
    config = GenerationConfig(do_sample=True, max_length=14, return_dict_in_generate=True, output_scores=True)
    assert len(translate(config, [T(0.5)]).processors) == 1
    assert translate(GenerationConfig(do_sample=True, max_length=14), [T(0.5)]).processors == []


def test_the_shortest_length_counts_and_one_token_is_the_least() -> None:
    config, timer = GenerationConfig(max_length=30), MaxTimeCriteria(5.0)
    call = translate(config, criteria=[MaxLengthCriteria(16), timer, MaxLengthCriteria(20)])
    assert call.options["max_new_tokens"] == 6
    assert call.criteria == [timer]
    assert translate(config).options["max_new_tokens"] == 20
    assert translate(config, criteria=[MaxLengthCriteria(3)]).options["max_new_tokens"] == 1


def test_end_ids_come_from_the_criteria_and_exist() -> None:
    eos = [EosTokenCriteria([3, 60]), EosTokenCriteria(torch.tensor([-1])), EosTokenCriteria(7)]
    call = translate(GenerationConfig(max_length=30), criteria=eos)
    assert call.options["stop_token_ids"] == [3, 7]
    assert call.options["ignore_eos"]
    assert call.criteria == []


@pytest.mark.parametrize(
    ("pad", "eos", "expected"), [(None, None, None), (4, None, 4), (0, 3, 0), (None, 3, 3), (None, [5, 6], 5)]
)
def test_padding(pad: int | None, eos: Any, expected: int | None) -> None:
    config = GenerationConfig(pad_token_id=pad, eos_token_id=eos, max_length=30)
    assert translate(config).pad_token_id == expected
