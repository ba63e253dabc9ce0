"""Sequences and steps as transformers returns them."""

from __future__ import annotations

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

from evodraft.integrations.transformers.output import ScoreTape, SpeculativeOutput, padded_sequences, taped_steps


def test_shorter_rows_are_padded() -> None:
    prompts = torch.tensor([[0, 5], [6, 7]])
    assert padded_sequences(prompts, [[1], [2, 3, 4]], 9).tolist() == [[0, 5, 1, 9, 9], [6, 7, 2, 3, 4]]


def test_rows_of_one_length_need_no_padding_id() -> None:
    assert padded_sequences(torch.tensor([[5]], dtype=torch.int32), [[1, 2]], None).dtype == torch.int32


def test_output_is_transformers_own_class() -> None:
    output = SpeculativeOutput(sequences=torch.tensor([[1]]), speculation=(), exact=True)  # type: ignore[arg-type]
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert output["sequences"] is output[0] is output.sequences
    assert output.past_key_values is None


def test_a_tape_changes_nothing_and_keeps_a_copy() -> None:
    tape, scores = ScoreTape(), torch.tensor([[1.0, 2.0]])
    assert tape(torch.tensor([[4, 5, 6]]), scores) is scores
    scores += 1
    assert tape.kept[3].tolist() == [1.0, 2.0]


def test_steps_of_rows_that_end_apart() -> None:
    """What was scored beyond the end of a row (its block was cut) is not part of the result."""
    long, short = ScoreTape(), ScoreTape()
    for length in (4, 5):
        long(torch.zeros((1, length)), torch.full((1, 3), float(length)))
    for length in (2, 3, 4):
        short(torch.zeros((1, length)), torch.full((1, 3), float(-length)))
    steps = taped_steps([long, short], [4, 2], [2, 1], 1, torch.device("cpu"))
    assert [step.tolist() for step in steps] == [
        [[4.0, 4.0, 4.0], [-2.0, -2.0, -2.0]],
        [[5.0, 5.0, 5.0], [-torch.inf, 0.0, -torch.inf]],
    ]
