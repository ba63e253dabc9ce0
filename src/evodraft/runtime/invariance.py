"""Does a step compute the same bits whatever the width of a pass and whoever shares it (X13)?

Kernels are chosen by shapes, so this is found out on the model's own matrices: the first layers and the head read a
short text token by token, in pieces, and in a batch, and every number must be the same each time.

This module does not know what the numbers mean; a step that passes has been tried on these shapes, not proven.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import torch

from evodraft.runtime.cache import SlotCache

if TYPE_CHECKING:
    from evodraft.runtime.step import Step
    from evodraft.runtime.support import ModelFacts

_MOST_LAYERS: Final = 2  # that are tried: all have the same shapes
_PIECES: Final = ((1,) * 24, (16, 8), (2, 3, 4, 5, 6, 4), (7, 17), (24,))  # widths of passes over the same text
_LENGTH: Final = 24
_NUM_NEIGHBOURS: Final = 7


def is_invariant(step: Step, facts: ModelFacts) -> bool:
    """Whether all ways of reading one text gave the same bits, hidden states and logits alike."""
    num_layers = min(facts.num_layers, _MOST_LAYERS)
    length = min(_LENGTH, facts.context_length or _LENGTH)
    token_ids = (torch.arange(length, device=facts.device) * 7919 + 1) % facts.vocab_size
    with torch.no_grad():
        alone = [_read_in_pieces(step, token_ids, pieces, num_layers) for pieces in _PIECES]
        shared = _read_beside_others(step, token_ids, num_layers)
    return all(torch.equal(alone[0], other) for other in [*alone[1:], shared])


def _read_in_pieces(step: Step, token_ids: torch.Tensor, widths: Sequence[int], num_layers: int) -> torch.Tensor:
    """Hidden states and logits [tokens, hidden + vocab] of a text read in passes of these widths."""
    cache = SlotCache(num_layers, num_slots=1, max_length=len(token_ids))
    ends = [min(end, len(token_ids)) for end in accumulate(widths)]
    spans = zip([0, *ends[:-1]], ends, strict=True)
    return torch.cat([_pass(step, cache, [token_ids[start:end]], [0])[0] for start, end in spans if start < end])


def _read_beside_others(step: Step, token_ids: torch.Tensor, num_layers: int) -> torch.Tensor:
    """The same, in one pass with rows of other lengths, which hold other texts before."""
    slots = range(min(_NUM_NEIGHBOURS + 1, len(token_ids)))  # each has a shorter text
    cache = SlotCache(num_layers, num_slots=len(slots), max_length=2 * len(token_ids))
    others = [token_ids.roll(slot)[: len(token_ids) - slot] for slot in slots]
    _pass(step, cache, others[1:], slots[1:])
    return _pass(step, cache, [token_ids, *others[1:]], slots)[0]


def _pass(step: Step, cache: SlotCache, texts: Sequence[torch.Tensor], slots: Sequence[int]) -> list[torch.Tensor]:
    widths = [len(text) for text in texts]
    padded = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    plan = cache.plan(slots, widths, max(widths))
    cache.begin(plan)
    hidden = step.layers(step.embed(padded), cache, plan, 0, cache.num_layers, ()).hidden
    cache.commit(plan)
    found = torch.cat([hidden, step.head(step.norm(hidden)).to(hidden.dtype)], dim=-1)
    return [found[row, :width] for row, width in enumerate(widths)]
