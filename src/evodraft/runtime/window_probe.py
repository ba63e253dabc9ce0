"""Does a model really look through the window that its config names?

A config may carry `sliding_window` although the architecture ignores it (a checkpoint converted from another type),
or `layer_types` that it never reads. A mask of ours with a window would then change the model, and one without would
change a model that has it. One single-token pass finds out: two rows whose caches differ only in a position before
the window.

This module does not know slots, and it does not tell layers apart: it asks about all of them at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from evodraft.runtime.model_call import evaluating

if TYPE_CHECKING:
    from evodraft.runtime.support import ModelFacts

_PUSH = 100.0  # what the hidden position adds to every attention output if it is seen after all
_LARGEST = 3e4  # float16 ends soon after
_SAME = 0.01  # of the logits' spread


def ignores_window(model: torch.nn.Module, facts: ModelFacts, window: int) -> bool:
    """True if the position just before the window changes what the model says."""
    columns = window + 1
    if facts.context_length is not None and columns > facts.context_length:
        return False  # no sequence ever reaches beyond the window
    token_ids = torch.full((2, 1), facts.vocab_size // 2, device=facts.device)
    with torch.no_grad(), evaluating(model):
        logits: torch.Tensor = model(
            input_ids=token_ids,
            position_ids=torch.full_like(token_ids, columns - 1),
            past_key_values=_TwoPasts(facts.num_layers, columns),
            use_cache=True,
            return_dict=True,
        ).logits.float()
    return bool((logits[0] - logits[1]).abs().max() > _SAME * logits.std())


class _TwoPasts(Cache):
    """A past of zeros; in the second row, position 0 holds large values."""

    def __init__(self, num_layers: int, columns: int) -> None:
        super().__init__(layers=[_TwoPastsLayer(columns) for _ in range(num_layers)])


class _TwoPastsLayer(CacheLayerMixin):
    def __init__(self, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers left it unannotated
        self._columns = columns
        self.is_initialized = True

    def update(
        self,
        key_states: torch.Tensor,  # [2, kv_heads, 1, key_dim]
        value_states: torch.Tensor,  # [2, kv_heads, 1, value_dim]
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (self._past(states) for states in (key_states, value_states))
        values[1, :, 0] = min(_PUSH * self._columns, _LARGEST)
        return keys, values

    def _past(self, states: torch.Tensor) -> torch.Tensor:
        past = states.new_zeros(*states.shape[:2], self._columns, states.shape[3])
        past[:, :, -1:] = states
        return past

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is stored."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._columns, 0

    def get_seq_length(self) -> int:
        return self._columns - 1

    def get_max_length(self) -> int:
        return self._columns
