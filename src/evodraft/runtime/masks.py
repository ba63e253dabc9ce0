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
from evodraft.runtime.trees import ancestors, depths

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


class _Sight(NamedTuple):
    """What a pass sees, before windows and chunks."""

    positions: torch.Tensor  # [batch, width], of the queries
    held: torch.Tensor  # [columns] or [batch, 1, 1, columns]: the position that each column holds
    seen: torch.Tensor  # [batch, 1, width, columns]


class MaskBuilder:
    """Draws the masks of a pass for one model.

    `additive` is None for boolean masks (sdpa); for eager attention it is the dtype of a mask that is added to the
    scores. No row of a mask is ever empty: padding sees what the row's last token sees. Windows and chunks
    count positions, so that a branch of a tree sees as far back as it would alone.
    """

    def __init__(self, kinds: tuple[LayerKind, ...], device: torch.device, additive: torch.dtype | None = None) -> None:
        self._kinds = kinds
        self._device = device
        self._additive = additive
        self._range = torch.arange(0, device=device)

    def build(self, step: CachePass) -> PassInputs:
        """Positions and masks of one pass; a plain tensor if all layers are of one kind, else one per kind."""
        sight = self._chains(step) if step.parents is None else self._trees(step, step.parents)
        masks = {kind.name: self._mask(kind, sight) for kind in self._kinds}
        return PassInputs(sight.positions, next(iter(masks.values())) if len(masks) == 1 else masks)

    def _chains(self, step: CachePass) -> _Sight:
        starts, ends = torch.tensor([step.starts, step.ends], device=self._device).unsqueeze(-1)
        positions = torch.minimum(starts + self._arange(step.width), ends - 1)
        columns = self._arange(step.columns)
        return _Sight(positions, columns, columns <= positions[:, None, :, None])

    def _trees(self, step: CachePass, parents: tuple[tuple[int, ...], ...]) -> _Sight:
        """What the slot held is seen by all nodes; of the nodes each sees its ancestors and itself."""
        starts = torch.tensor(step.starts)[:, None]
        nodes = (
            torch.arange(step.columns) - starts
        )  # [batch, columns]: which node a column holds, negative = held before
        within = nodes.clamp(0, step.width - 1)
        depth = torch.tensor([_padded(depths(row), step.width) for row in parents])  # [batch, width]
        family = torch.stack([ancestors(row, step.width) for row in parents])  # [batch, width, width]
        seen = family.gather(2, within[:, None].expand(-1, step.width, -1)) & (nodes < step.width)[:, None]
        seen |= (nodes < 0)[:, None]
        held = torch.where(nodes < 0, nodes, depth.gather(1, within)) + starts
        return _Sight(*(part.to(self._device) for part in (starts + depth, held[:, None, None], seen[:, None])))

    def _mask(self, kind: LayerKind, sight: _Sight) -> torch.Tensor:  # [batch, 1, width, columns]
        query, key, seen = sight.positions[:, None, :, None], sight.held, sight.seen
        if kind.window is not None:
            seen = seen & (key > query - kind.window)
        if kind.chunk is not None:
            seen = seen & (key // kind.chunk == query // kind.chunk)
        if self._additive is None:
            return seen
        blocked = torch.finfo(self._additive).min
        return torch.zeros(seen.shape, dtype=self._additive, device=self._device).masked_fill_(~seen, blocked)

    def _arange(self, length: int) -> torch.Tensor:  # [length]
        if self._range.shape[0] < length:
            self._range = torch.arange(2 * length, device=self._device)
        return self._range[:length]


def _padded(numbers: list[int], length: int) -> list[int]:
    return numbers + numbers[-1:] * (length - len(numbers))


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
