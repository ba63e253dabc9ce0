"""What is decoded when costs are measured: how many random tokens, how often. Measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evodraft.bench.contestants import Ask

if TYPE_CHECKING:
    from evodraft.bench.synthetic.forced import ScheduleName


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded, and how."""

    num_draft_tokens: int = 5
    num_prompt_tokens: int = 64
    max_new_tokens: int = 64
    temperature: float = 0.7
    repeats: int = 3
    schedule: ScheduleName = "even"
    seed: int = 0

    def asks(self, vocab_size: int, number: int, temperature: float | None = None) -> list[Ask]:
        """So many prompts of random ids, which nothing ends before its length."""
        generator = torch.Generator().manual_seed(self.seed)
        prompts = torch.randint(vocab_size, (number, self.num_prompt_tokens), generator=generator).tolist()
        chosen = self.temperature if temperature is None else temperature
        return [
            Ask(tuple(prompt), self.max_new_tokens, chosen, seed=self.seed + row) for row, prompt in enumerate(prompts)
        ]
