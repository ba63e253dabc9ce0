"""A head rolled out over sequences: from what the target has shown of them to the logits behind any draft.

Does not know how much is drafted, nor which tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from evodraft.drafters.eagle.held import Held
from evodraft.drafters.eagle.passes import Passes, Piece

if TYPE_CHECKING:
    from evodraft.drafters.base import DraftRow
    from evodraft.drafters.sliced_head import SlicedHead


class Rollout:
    """What is held of every slot, and the passes that take it further.

    Args:
        passes: of the head, with its cache.
        output: the output matrix.
        vocab_size: columns that logits have where the output matrix is not sliced.
    """

    def __init__(self, passes: Passes, output: SlicedHead, vocab_size: int) -> None:
        self.passes = passes
        self.output = output
        self.vocab_size = vocab_size
        self.held = [Held() for _ in range(passes.cache.num_slots)]

    def is_ready(self, row: DraftRow) -> bool:
        """Whether the target's features are known of all committed tokens but the last."""
        return self.held[row.slot].is_ready(len(row.committed))

    def features(self, rows: Sequence[DraftRow]) -> torch.Tensor:  # [rows, hidden]
        """Those after the last token of each row, which is ready; computes what is missing, mostly in one pass."""
        while behind := [row for row in rows if len(self.held[row.slot].outputs) <= len(row.drafted)]:
            self._advance(behind)
        return torch.stack([self.held[row.slot].outputs[len(row.drafted)] for row in rows])

    def logits(self, features: torch.Tensor) -> torch.Tensor:  # [nodes, hidden] -> [nodes, columns]
        """Raw logits of the tokens that follow; columns stand for `output.ids`, else for the target's ids."""
        return self.fitted(self.output(self.passes.step.norm(features)))

    def fitted(
        self, logits: torch.Tensor, impossible: float = -torch.inf
    ) -> torch.Tensor:  # [nodes, rows of the output matrix] -> [nodes, columns]
        """Cut or padded to the target's ids, where the output matrix is not sliced. For laws the impossible is 0."""
        surplus = self.vocab_size - logits.shape[1]
        if self.output.ids is not None or surplus == 0:
            return logits
        return torch.nn.functional.pad(logits, (0, surplus), value=impossible)  # a negative pad cuts

    def rewind(self, slot: int) -> None:
        """Forgets what was drafted."""
        held = self.held[slot]
        held.forget_draft()
        self.passes.cache.crop(slot, held.num_true)

    def release(self, slot: int) -> None:
        """Forgets the slot's sequence."""
        self.held[slot] = Held()
        self.passes.cache.release(slot)

    def fused(self, slot: int) -> torch.Tensor:  # [tokens, hidden]
        """Features that wait for their columns, from the target's hidden states."""
        return self.passes.step.fuse(self.held[slot].all_waiting())

    def prompt_piece(self, slot: int, token_ids: Sequence[int]) -> Piece:
        """The first waiting columns, as many as there are `token_ids` for them."""
        return Piece(slot, self.held[slot].num_true, self.fused(slot)[: len(token_ids)], token_ids)

    def next_column(self, row: DraftRow) -> int:
        """Where the next pass of a row begins: at its waiting columns, else behind its draft."""
        held = self.held[row.slot]
        return held.num_true + max(0, len(held.outputs) - 1)

    def next_tokens(self, row: DraftRow) -> Sequence[int]:
        """The tokens of the columns of the next pass."""
        held = self.held[row.slot]
        if not held.outputs:
            return row.committed[held.num_true + 1 :]
        return row.drafted[len(held.outputs) - 1 : len(held.outputs)]

    def take(self, slot: int, num_columns: int, output: torch.Tensor) -> None:  # [hidden]
        """The next pass of a slot was run; `output` is behind the last of its columns."""
        held = self.held[slot]
        if held.outputs:
            held.outputs.append(output)
        else:
            held.settle(num_columns, output)

    def _advance(self, rows: Sequence[DraftRow]) -> None:
        pieces = [self._next_piece(row) for row in rows]
        for piece, output in zip(pieces, self.passes.run(pieces), strict=True):
            self.take(piece.slot, output.shape[0], output[-1])

    def _next_piece(self, row: DraftRow) -> Piece:
        outputs = self.held[row.slot].outputs
        features = outputs[-1][None] if outputs else self.fused(row.slot)
        return Piece(row.slot, self.next_column(row), features, self.next_tokens(row))
