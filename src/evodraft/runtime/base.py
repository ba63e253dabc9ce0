"""The Decoder protocol: a causal language model with a key-value cache of numbered slots.

A slot holds one sequence. `forward` appends tokens to slots and returns logits; `crop` takes tokens back. A decoder
does not know about requests, sampling, drafts or text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """What one pass returns. Rows keep the order of the `slots` argument; columns past a row's width are noise."""

    logits: torch.Tensor | None  # [batch, width, vocab], None if not wanted
    taps: Mapping[int, torch.Tensor] = field(default_factory=dict)  # layer -> [batch, width, hidden]


class Decoder(Protocol):
    """What the target and model-based drafters run on.

    Every slot has a length (tokens held). A pass writes row r's `widths[r]` tokens at the positions
    length .. length + widths[r] - 1 of slot `slots[r]` and advances the length by `widths[r]`.

    With `parents`, the tokens of a row are the nodes of trees: `parents[r][n]` is an earlier node of the row, or -1 for
    the last token that the slot held. A node sees the path to it and what the slot held, nothing else, and stands where
    it would as the last token of that path. The length advances by `widths[r]` all the same; before the slot goes on,
    `select` must leave a single path, or `crop` nothing.
    """

    @property
    def vocab_size(self) -> int:
        """Columns of the logits (may exceed the tokenizer's ids: padding)."""
        ...

    @property
    def num_layers(self) -> int:
        """Decoder layers; valid taps are 0 (embeddings) to num_layers (last hidden state before the final norm or
        after it, as the model itself reports)."""
        ...

    @property
    def num_slots(self) -> int:
        """Sequences that can be held at once; valid slots are 0 .. num_slots - 1."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens that one slot can hold at most."""
        ...

    def forward(
        self,
        token_ids: torch.Tensor,  # [batch, width] int64, right-padded with any valid id
        widths: Sequence[int],  # [batch], 1 <= widths[r] <= width
        slots: Sequence[int],  # [batch], distinct
        *,
        parents: Sequence[Sequence[int]] | None = None,  # [batch][widths[r]], None if all rows are chains
        want_logits: bool = True,
        taps: Sequence[int] = (),
    ) -> DecoderOutput:
        """Appends tokens and scores them. Before any state changes, raises CapacityError if a slot would overflow and
        ConfigError for `parents` that are no trees."""
        ...

    def length(self, slot: int) -> int:
        """Tokens held by a slot in every layer (the shortest layer counts)."""
        ...

    def crop(self, slot: int, length: int, layers: range | None = None) -> None:
        """Forgets everything from position `length` on, in the given layers (default: all)."""
        ...

    def select(self, slot: int, start: int, nodes: Sequence[int]) -> None:
        """Keeps one path of the tree that was appended at length `start`: `nodes`, from the top down. The length
        becomes `start + len(nodes)`. Raises ConfigError for nodes that do not ascend or were not appended."""
        ...

    def release(self, slot: int) -> None:
        """Empties a slot."""
        ...

    def scrub(self, slot: int) -> None:
        """Overwrites whatever a slot still holds beyond its length, so that a NaN there reaches no later pass."""
        ...
