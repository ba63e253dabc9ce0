"""What comes back: transformers' tensor of sequences, or its output class with the counters of each row.

Does not know engines, processors or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

from evodraft.types import GenerationStats


@dataclass
class SpeculativeOutput(GenerateDecoderOnlyOutput):
    """transformers' output with what speculation did.

    `attentions`, `hidden_states` and `past_key_values` are always None. Where a row is shorter than the longest, it is
    padded in `sequences`, and `scores` and `logits` leave its padding token alone possible there.
    """

    speculation: tuple[GenerationStats, ...] | None = None  # one per row
    exact: bool | None = None  # False: the verifier was allowed to change the output law


@dataclass(frozen=True, slots=True)
class ScoreTape:
    """A logits processor that changes nothing and keeps what it sees, by the length of the sequence before."""

    kept: dict[int, torch.Tensor] = field(default_factory=dict)  # number of tokens -> [vocab]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.kept[input_ids.shape[1]] = scores[0].clone()
        return scores


def padded_sequences(
    prompts: torch.Tensor, outputs: Sequence[Sequence[int]], pad_token_id: int | None
) -> torch.Tensor:  # [batch, padded prompt + longest output]
    """`prompts` [batch, padded prompt] followed by the output of each row and padding."""
    longest = max(len(output) for output in outputs)
    rows = [[*output, *[pad_token_id] * (longest - len(output))] for output in outputs]
    return torch.cat([prompts, torch.tensor(rows).to(prompts)], dim=-1)


def taped_steps(
    tapes: Sequence[ScoreTape],
    prompt_lengths: Sequence[int],
    output_lengths: Sequence[int],
    pad_token_id: int | None,
    device: torch.device,
) -> tuple[torch.Tensor, ...]:  # output lengths of [batch, vocab]
    """What the tapes of the rows hold, step by step; a row that has ended can only say its padding token."""
    steps = []
    for step in range(max(output_lengths)):
        rows = []
        for tape, start, num_tokens in zip(tapes, prompt_lengths, output_lengths, strict=True):
            if step < num_tokens:
                rows.append(tape.kept[start + step])
            else:
                ended = torch.full_like(tape.kept[start], -torch.inf)
                ended[pad_token_id] = 0.0
                rows.append(ended)
        steps.append(torch.stack(rows).to(device))
    return tuple(steps)
