"""Any transformers decoder-only model as a Decoder: the reference for correctness.

The model is called as it is, with its own attention, its own hooks and its own precision; only cache, masks and
positions are ours.

This module does not know requests, sampling, drafts or text, and it never writes into the model or its config.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evodraft.runtime.cache import SlotCache
from evodraft.runtime.check import check_model
from evodraft.runtime.model_call import ModelCall
from evodraft.runtime.slotted import SlottedDecoder
from evodraft.runtime.support import ModelFacts, resolve_max_length
from evodraft.runtime.view import SlotView

if TYPE_CHECKING:
    import torch

    from evodraft.runtime.base import DecoderOutput


class HfDecoder(SlottedDecoder):
    """Decodes with a transformers model that the caller owns.

    `max_length` defaults to the model's context, lowered to what `kv_cache_bytes` holds for `num_slots` sequences.
    `cache_tokens` bounds what the cache takes ahead of need, rows x columns (default: `num_slots x max_length`).
    `self_check` runs three passes over six tokens and refuses a model that would be silently wrong; with `facts`, which
    `check_model` gave, it was done before.

    >>> import torch
    >>> from evodraft.testing.tiny import tiny_model
    >>> decoder = HfDecoder(tiny_model("llama", vocab_size=32, seed=0), num_slots=2)
    >>> decoder.forward(torch.tensor([[1, 2, 3], [4, 5, 0]]), widths=[3, 2], slots=[0, 1]).logits.shape
    torch.Size([2, 3, 32])
    >>> decoder.crop(0, length=1)
    >>> decoder.length(0), decoder.length(1)
    (1, 2)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        num_slots: int = 8,
        max_length: int | None = None,
        kv_cache_bytes: int | None = None,
        *,
        cache_tokens: int | None = None,
        self_check: bool = True,
        facts: ModelFacts | None = None,
    ) -> None:
        if facts is None:
            facts = check_model(model, ModelFacts.of(model)) if self_check else ModelFacts.of(model)
        length = resolve_max_length(facts, max_length, num_slots, kv_cache_bytes)
        super().__init__(facts, SlotCache(facts.num_layers, num_slots, length, budget_tokens=cache_tokens))
        self.model = model
        self._call = ModelCall(model, facts)
        self._view = SlotView(self._cache)

    def forward(
        self,
        token_ids: torch.Tensor,  # [batch, width]
        widths: Sequence[int],  # [batch]
        slots: Sequence[int],  # [batch]
        *,
        parents: Sequence[Sequence[int]] | None = None,  # [batch][widths[r]]
        want_logits: bool = True,
        taps: Sequence[int] = (),
    ) -> DecoderOutput:
        """Appends tokens and scores them; if the model raises, all lengths are as before."""
        return self._call(self._view, token_ids, widths, slots, parents=parents, want_logits=want_logits, taps=taps)
