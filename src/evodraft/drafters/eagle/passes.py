"""Passes of a head over some slots: tokens are embedded, rows padded, and the books of the cache kept.

Does not know where features come from, nor what is done with those that come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from evodraft.runtime.cache import SlotCache

if TYPE_CHECKING:
    from evodraft.drafters.eagle.step import EagleStep


class Piece(NamedTuple):
    """Columns to be computed in one row of a pass."""

    slot: int
    start: int  # column of the first; what the slot holds from there on is overwritten
    features: torch.Tensor  # [columns, hidden]
    token_ids: Sequence[int]  # [columns]
    parents: Sequence[int] | None = None  # [columns], as SlotCache.plan has them; None = a chain
    num_known: int = 0  # first columns that the last piece from the same start had too


class Passes:
    """Runs a head over pieces.

    Args:
        step: the arithmetic.
        embedding: of tokens; tokens beyond it are read as token 0, so that only the guess suffers.
        cache: of one layer.
    """

    def __init__(self, step: EagleStep, embedding: torch.Tensor, cache: SlotCache) -> None:
        self.step = step
        self.embedding = embedding.detach()  # [vocab, hidden]
        self.cache = cache

    def run(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:  # [columns, hidden] for each piece
        """Features behind every column, noise behind known ones. If memory runs out, lengths are as far as the pieces'
        starts."""
        for piece in pieces:
            self.cache.crop(piece.slot, piece.start)
        widths = [len(piece.token_ids) for piece in pieces]
        has_trees = any(piece.parents is not None for piece in pieces)
        parents = [_parents_of(piece) for piece in pieces] if has_trees else None
        plan = self.cache.plan([piece.slot for piece in pieces], widths, max(widths), parents=parents)
        self.cache.begin(plan)
        embedded = self.embed([piece.token_ids for piece in pieces], max(widths))
        features = pad_sequence([piece.features for piece in pieces], batch_first=True)
        known = [piece.num_known for piece in pieces] if any(piece.num_known for piece in pieces) else None
        output = self.step.layer(embedded, features, self.cache, plan, known)
        self.cache.commit(plan)
        return [row[:width] for row, width in zip(output, widths, strict=True)]

    def embed(self, token_ids: Sequence[Sequence[int]], width: int) -> torch.Tensor:  # [batch, width, hidden]
        """Rows are padded with token 0."""
        rows = self.embedding.shape[0]
        known = [
            [*(token_id if token_id < rows else 0 for token_id in row), *[0] * (width - len(row))] for row in token_ids
        ]
        return functional.embedding(torch.tensor(known, device=self.embedding.device), self.embedding)


def _parents_of(piece: Piece) -> Sequence[int]:
    return range(-1, len(piece.token_ids) - 1) if piece.parents is None else piece.parents
