"""What all decoders that keep their tokens in a SlotCache have in common. Does not know models or passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evodraft.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch

    from evodraft.runtime.cache import SlotCache
    from evodraft.runtime.choose import Runtime
    from evodraft.runtime.support import ModelFacts


class SlottedDecoder:
    """The books of a decoder: everything of the protocol but `forward`."""

    runtime: Runtime | None = None  # what made it, if something chose it
    model: torch.nn.Module | None = None  # whose weights it computes with, where it is known

    def __init__(self, facts: ModelFacts, cache: SlotCache) -> None:
        self._facts = facts
        self._cache = cache

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

    def length(self, slot: int) -> int:
        return self._cache.length(slot)

    def crop(self, slot: int, length: int, layers: range | None = None) -> None:
        self._cache.crop(slot, length, layers)

    def select(self, slot: int, start: int, nodes: Sequence[int]) -> None:
        self._cache.select(slot, start, nodes)

    def release(self, slot: int) -> None:
        self._cache.release(slot)

    def scrub(self, slot: int) -> None:
        self._cache.scrub(slot)


def check_taps(taps: Sequence[int], facts: ModelFacts) -> None:
    """Raises UnsupportedModelError for a layer that the model does not have."""
    for layer in taps:
        if not 0 <= layer <= facts.num_layers:
            raise UnsupportedModelError(
                f"tap {layer} is outside 0..{facts.num_layers} of model type {facts.model_type!r}; "
                "use a drafter that was trained for this target"
            )
