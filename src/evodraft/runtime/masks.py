"""Which cached positions a query may see, drawn for a ragged pass in the form a transformers model takes ready-made.

transformers passes a 4D mask through untouched, so whatever a model would draw itself must be drawn here: causality,
sliding windows and attention chunks, one mask per kind of layer. The rules are those of transformers.masking_utils.

This module does not know what is stored at a position, and it does not run models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from evodraft.errors import UnsupportedModelError

if TYPE_CHECKING:
    from evodraft.runtime.cache import CachePass


@dataclass(frozen=True, slots=True)
class LayerKind:
    """How the layers of one kind look back. Without window and chunk: at everything."""

    name: str  # as in config.layer_types
    window: int | None = None  # position p sees p - window + 1 .. p
    chunk: int | None = None  # position p sees the positions of its own chunk up to p


FULL_ATTENTION: Final = LayerKind("full_attention")


class PassInputs(NamedTuple):
    """Positions and masks of one pass."""

    position_ids: torch.Tensor  # [batch, width]; padding repeats the row's last position
    attention_mask: torch.Tensor | Mapping[str, torch.Tensor]  # each [batch, 1, width, columns]


class MaskBuilder:
    """Draws the masks of a pass for one model.

    `additive` is None for boolean masks (sdpa); for eager attention it is the dtype of a mask that is added to the
    scores. No row of a mask is ever empty: padding sees what the row's last token sees.
    """

    def __init__(self, kinds: tuple[LayerKind, ...], device: torch.device, additive: torch.dtype | None = None) -> None:
        self._kinds = kinds
        self._device = device
        self._additive = additive
        self._range = torch.arange(0, device=device)

    def build(self, step: CachePass) -> PassInputs:
        """Positions and masks of one pass; a plain tensor if all layers are of one kind, else one per kind."""
        positions = self._positions(step)
        masks = {kind.name: self._mask(kind, positions, step.columns) for kind in self._kinds}
        return PassInputs(positions, next(iter(masks.values())) if len(masks) == 1 else masks)

    def _positions(self, step: CachePass) -> torch.Tensor:  # [batch, width]
        starts, ends = torch.tensor([step.starts, step.ends], device=self._device).unsqueeze(-1)
        return torch.minimum(starts + self._arange(step.width), ends - 1)

    def _mask(self, kind: LayerKind, positions: torch.Tensor, columns: int) -> torch.Tensor:
        query = positions[:, None, :, None]
        key = self._arange(columns)
        seen = key <= query  # [batch, 1, width, columns]
        if kind.window is not None:
            seen &= key > query - kind.window
        if kind.chunk is not None:
            seen &= key // kind.chunk == query // kind.chunk
        if self._additive is None:
            return seen
        blocked = torch.finfo(self._additive).min
        return torch.zeros(seen.shape, dtype=self._additive, device=self._device).masked_fill_(~seen, blocked)

    def _arange(self, length: int) -> torch.Tensor:  # [length]
        if self._range.shape[0] < length:
            self._range = torch.arange(2 * length, device=self._device)
        return self._range[:length]


def layer_kinds(config: Any) -> tuple[LayerKind, ...]:
    """The kinds of attention layers that a transformers config describes. Refuses kinds that hold a state which
    cannot be taken back (linear attention, convolutions, compressed keys)."""
    window = getattr(config, "sliding_window", None)
    names = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    known = {
        "full_attention": FULL_ATTENTION,
        "sliding_attention": LayerKind("sliding_attention", window=window),
        "chunked_attention": LayerKind("chunked_attention", chunk=getattr(config, "attention_chunk_size", None)),
    }
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UnsupportedModelError(
            f"model type {config.model_type!r} has layers of kind {', '.join(unknown)}; rejected drafts can only be "
            f"taken back from layers of kind {', '.join(known)}; use a model with attention layers only"
        )
    return tuple(known[name] for name in dict.fromkeys(names))
