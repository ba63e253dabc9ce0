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
from evodraft.runtime.support import ModelFacts, resolve_max_length
from evodraft.runtime.view import SlotView

if TYPE_CHECKING:
    import torch

    from evodraft.runtime.base import DecoderOutput


class HfDecoder:
    """Decodes with a transformers model that the caller owns.

    `max_length` defaults to the model's context, lowered to what `kv_cache_bytes` holds for `num_slots` sequences.
    `self_check` runs three passes over six tokens and refuses a model that would be silently wrong.

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
        self_check: bool = True,
    ) -> None:
        facts = ModelFacts.of(model)
        self.model = model
        self._facts = check_model(model, facts) if self_check else facts
        self._call = ModelCall(model, self._facts)
        length = resolve_max_length(self._facts, max_length, num_slots, kv_cache_bytes)
        self._cache = SlotCache(self._facts.num_layers, num_slots, length)
        self._view = SlotView(self._cache)

    @property
    def vocab_size(self) -> int:
        return self._facts.vocab_size

    @property
    def num_layers(self) -> int:
        return self._facts.num_layers

    @property
    def num_slots(self) -> int:
        return self._cache.num_slots

    @property
    def max_length(self) -> int:
        return self._cache.max_length

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that one token of one slot takes in all layers."""
        return self._facts.bytes_per_token

    @property
    def cache_bytes(self) -> int:
        """Bytes that the key-value buffers take at this moment."""
        return self._cache.allocated_bytes

    def forward(
        self,
        token_ids: torch.Tensor,  # [batch, width]
        widths: Sequence[int],  # [batch]
        slots: Sequence[int],  # [batch]
        *,
        want_logits: bool = True,
        taps: Sequence[int] = (),
    ) -> DecoderOutput:
        """Appends tokens and scores them; if the model raises, all lengths are as before."""
        return self._call(self._view, token_ids, widths, slots, want_logits=want_logits, taps=taps)

    def length(self, slot: int) -> int:
        return self._cache.length(slot)

    def crop(self, slot: int, length: int, layers: range | None = None) -> None:
        self._cache.crop(slot, length, layers)

    def release(self, slot: int) -> None:
        self._cache.release(slot)

    def scrub(self, slot: int) -> None:
        self._cache.scrub(slot)
