"""SlotCache dressed as a transformers Cache, so that any model writes into our slots without knowing.

A model calls `past_key_values.update(keys, values, layer_idx)` and gets back what attention shall see. Everything
that transformers offers beyond that (cropping, reordering, offloading) stays with SlotCache.

This module does not know models or masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers.cache_utils import Cache, CacheLayerMixin

if TYPE_CHECKING:
    import torch

    from evodraft.runtime.cache import CachePass, SlotCache


class SlotView(Cache):
    """A transformers cache that reads and writes the slots of the pass that is running, and holds nothing itself."""

    def __init__(self, cache: SlotCache) -> None:
        self.slot_cache = cache
        self.current: CachePass | None = None
        super().__init__(layers=[_SlotLayer(self, index) for index in range(cache.num_layers)])

    @contextmanager
    def during(self, step: CachePass) -> Iterator[None]:
        """One pass. The lengths advance at the end, unless the model raised."""
        self.slot_cache.begin(step)
        self.current = step
        try:
            yield
        finally:
            self.current = None
        self.slot_cache.commit(step)

    @property
    def running(self) -> CachePass:
        """The pass that is running."""
        assert self.current is not None, "a model used the cache outside of a pass"
        return self.current


class _SlotLayer(CacheLayerMixin):
    """One layer of the view."""

    def __init__(self, view: SlotView, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers left it unannotated
        self._view = view
        self._index = index
        self.is_initialized = True

    def update(
        self,
        key_states: torch.Tensor,  # [batch, kv_heads, width, key_dim]
        value_states: torch.Tensor,  # [batch, kv_heads, width, value_dim]
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._view.slot_cache.write(self._index, self._view.running, key_states, value_states)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: SlotCache allocates when it is written."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._view.running.columns, 0

    def get_seq_length(self) -> int:
        """The longest row's length before the pass: models ask only whether anything is cached at all."""
        return max(self._view.running.starts)

    def get_max_length(self) -> int:
        return self._view.slot_cache.max_length
