"""What a head holds of one sequence: which columns are true, what waits, and how far a draft got.

Column i of a head's cache is made of the target's features after token i and of token i + 1; its output is the
features after token i + 1. Does not know caches, passes or weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class Held:
    """The books of one slot.

    The target's hidden states are known for tokens 0 .. `num_known` - 1. The first `num_true` have their columns in
    the cache; the others wait for their tokens, or for the next pass. `outputs` are the features behind the last true
    column and then behind each column of the draft; empty where the last true column has not been computed.
    """

    num_true: int = 0
    waiting: list[torch.Tensor] = field(default_factory=list)  # [tokens, taps * target hidden] each
    outputs: list[torch.Tensor] = field(default_factory=list)  # [hidden] each
    is_torn: bool = False  # hidden states of some tokens never came: nothing behind them can be computed

    @property
    def num_known(self) -> int:
        return self.num_true + sum(part.shape[0] for part in self.waiting)

    def learn(self, start: int, taps: torch.Tensor) -> None:  # [tokens, taps * target hidden]
        """Takes the target's hidden states of the tokens from `start` on; what is known is passed over."""
        known = self.num_known
        if start > known or self.is_torn:
            self.tear()
        elif start + taps.shape[0] > known:
            self.waiting.append(taps[known - start :])
            self.outputs.clear()

    def tear(self) -> None:
        """Gives the sequence up: what was left out cannot be made up for."""
        self.is_torn = True
        self.waiting.clear()
        self.outputs.clear()

    def all_waiting(self) -> torch.Tensor:  # [tokens, taps * target hidden]
        """What waits, in one piece."""
        return self.waiting[0] if len(self.waiting) == 1 else torch.cat(self.waiting)

    def settle(self, num_columns: int, output: torch.Tensor) -> None:
        """The first waiting columns were computed; `output` [hidden] is behind the last of them."""
        rest = self.all_waiting()[num_columns:]
        self.num_true += num_columns
        self.waiting = [rest] if rest.shape[0] else []
        self.outputs = [] if self.waiting else [output]

    def forget_draft(self) -> None:
        """Back to what is true."""
        del self.outputs[1:]

    def is_ready(self, num_committed: int) -> bool:
        """Whether all is known that a draft behind `num_committed` tokens needs."""
        return not self.is_torn and 0 < self.num_known == num_committed - 1
