"""A row is shown to transformers' processors as it knows it: padded, alone, and with its own number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import PrefixConstrainedLogitsProcessor, RepetitionPenaltyLogitsProcessor

from evodraft.errors import PromptError
from evodraft.integrations.transformers.rows import RowCriterion, processor_of_row, prompt_rows

PROMPTS = torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]])
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
SCORES = torch.linspace(-1, 2, 10)[None]


def test_rows_without_their_padding() -> None:
    rows = prompt_rows(PROMPTS, MASK)
    assert [row.token_ids for row in rows] == [(3, 4), (5, 6, 7, 8)]
    assert [row.index for row in rows] == [0, 1]
    assert [row.token_ids for row in prompt_rows(PROMPTS, None)] == [(0, 0, 3, 4), (5, 6, 7, 8)]


def test_padding_on_the_right_is_refused() -> None:
    with pytest.raises(PromptError, match=r"prompt 1 of 2 ends in padding.*padding_side = 'left'"):
        prompt_rows(PROMPTS, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))


def test_the_sequence_is_padded_again() -> None:
    row = prompt_rows(PROMPTS, MASK)[0]
    assert row.sequence(torch.tensor([[3, 4, 9]])).tolist() == [[0, 0, 3, 4, 9]]


def test_processor_and_criterion_see_the_padded_row() -> None:
    row, seen = prompt_rows(PROMPTS, MASK)[0], []

    def note(input_ids: torch.Tensor, scores: Any) -> Any:
        seen.append(input_ids.tolist())
        return scores

    processor, criterion = processor_of_row(note, row), RowCriterion(row, note)
    assert processor.__name__ == criterion.__name__ == "note"
    assert processor(torch.tensor([[3, 4, 9]]), SCORES) is SCORES
    assert criterion(torch.tensor([[3, 4, 9]]), None) is None
    assert seen == [[[0, 0, 3, 4, 9]]] * 2


def test_nonsense_is_handed_on_for_the_engine_to_name() -> None:
    row = prompt_rows(PROMPTS, MASK)[0]
    assert processor_of_row(lambda ids, scores: "nothing", row)(torch.tensor([[3, 4]]), SCORES) == "nothing"


LENGTHS_OF_ROWS = pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23),
    reason="a length for each row came with transformers 5.23",
)


@pytest.mark.parametrize("ignored", [pytest.param(torch.tensor([2, 0]), marks=LENGTHS_OF_ROWS), 1, None])
def test_repetition_penalty_of_a_row(ignored: Any) -> None:
    """As a row of the batch, whose padding alone is not penalised."""
    processor = RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=ignored)
    together = processor(PROMPTS, SCORES.repeat(2, 1))
    for row in prompt_rows(PROMPTS, MASK):
        ids = torch.tensor([row.token_ids])
        assert torch.equal(processor_of_row(processor, row)(ids, SCORES)[0], together[row.index])


def test_prefix_constraint_of_a_row() -> None:
    processor = PrefixConstrainedLogitsProcessor(lambda row, sequence: [row, int(sequence[-1])], num_beams=1)
    together = processor(PROMPTS, SCORES.repeat(2, 1))
    for row in prompt_rows(PROMPTS, MASK):
        ids = torch.tensor([row.token_ids])
        assert torch.equal(processor_of_row(processor, row)(ids, SCORES)[0], together[row.index])
