"""The Llama family in torch operators, on any device and in any floating type.

A pass is `prepare`, which makes tensors of what is special about it, and `run`, which computes with these and asks
nothing of the host: what runs once can be recorded and replayed with other tensors of the same shapes.

This module does not know the books of the cache, and no model but by its weights.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from evodraft.runtime.cache import BufferShape, KeyValues
from evodraft.runtime.changes import Changes
from evodraft.runtime.eager_layer import EagerLayer, PassTensors, is_folded, norm_of
from evodraft.runtime.masks import LayerKind, MaskBuilder
from evodraft.runtime.packing import Linear, LinearMaker, plain_linear
from evodraft.runtime.step import LayersOutput

if TYPE_CHECKING:
    from evodraft.runtime.cache import CachePass, SlotCache
    from evodraft.runtime.family import FamilyWeights
    from evodraft.runtime.rotary import RotaryTables


class EagerStep:
    """Computes the passes of one model.

    Memory beyond the model's own: with `plain_linear` a copy of all query, key, value, gate and up matrices (about two
    thirds of the layers; none where the model itself keeps them joined, as phi3 does). With `packed_linear` a copy of
    every matrix, the head included. `refresh` makes them again if the model's weights were written to in place.

    >>> from evodraft.runtime.cache import SlotCache
    >>> from evodraft.runtime.family import read_family
    >>> from evodraft.runtime.support import ModelFacts
    >>> from evodraft.testing.tiny import tiny_model
    >>> model = tiny_model("llama", vocab_size=32)
    >>> step, cache = EagerStep(read_family(model, ModelFacts.of(model))), SlotCache(2, num_slots=1, max_length=8)
    >>> plan = cache.plan(slots=[0], widths=[3], width=3)
    >>> cache.begin(plan)
    >>> hidden = step.layers(step.embed(torch.tensor([[1, 2, 3]])), cache, plan, 0, 2, taps=()).hidden
    >>> step.head(step.norm(hidden)).shape
    torch.Size([1, 3, 32])
    """

    def __init__(self, weights: FamilyWeights, linear: LinearMaker = plain_linear, name: str = "eager") -> None:
        self.name = name
        self._weights = weights
        windows = tuple(dict.fromkeys(layer.window for layer in weights.layers))
        kinds = tuple(LayerKind(str(window), window=window) for window in windows)
        # Added to the scores, not boolean: torch would make the one of the other in every layer again.
        self._masks = MaskBuilder(kinds, weights.device, additive=weights.dtype)
        self._angles = _Angles(weights)
        self._norm = norm_of(weights)
        self._linear = linear
        self._layers, self._head = self._joined()
        self._changes = Changes(weights.tensors())
        head_dim = weights.head_dim
        self._shape = BufferShape(weights.num_kv_heads, head_dim, head_dim, weights.dtype, weights.device)

    def refresh(self) -> bool:
        """Makes all copies again, which takes as long as making the step."""
        is_changed = self._changes.found()
        if is_changed:
            self._layers, self._head = self._joined()
        return is_changed

    def embed(
        self,
        token_ids: torch.Tensor,  # [batch, width]
    ) -> torch.Tensor:  # [batch, width, hidden]
        return functional.embedding(token_ids.to(self._weights.device), self._weights.embedding)

    def layers(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
        cache: SlotCache,
        step: CachePass,
        first: int,
        last: int,
        taps: Collection[int],
        beside: torch.Tensor | None = None,  # [batch, width, hidden]: what layers of two inputs read too
    ) -> LayersOutput:
        buffers = self.buffers(cache, step, first, last)
        return self.run(hidden, self.prepare(step), buffers, step.first_slot, first, taps, beside)

    def norm(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
    ) -> torch.Tensor:  # [batch, width, hidden]
        return self._norm(hidden, self._weights.final_norm)

    def head(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
    ) -> torch.Tensor:  # [batch, width, vocab]
        return self._head(hidden)

    def _joined(self) -> tuple[list[EagerLayer], Linear]:
        """The layers with their joined matrices, and the head."""
        weights, linear = self._weights, self._linear
        windows = list(dict.fromkeys(layer.window for layer in weights.layers))
        layers = [EagerLayer(weights, layer, windows.index(layer.window), linear) for layer in weights.layers]
        return layers, linear(weights.head.weight, weights.head.bias)

    # ---- a pass in two parts -------------------------------------------------------------------------------------

    def buffers(self, cache: SlotCache, step: CachePass, first: int, last: int) -> list[KeyValues]:
        """The whole buffers of a range of layers, with room for the pass."""
        return [cache.buffers(layer, step, self._shape) for layer in range(first, last)]

    def prepare(self, step: CachePass) -> PassTensors:
        """What is special about a pass. The only part that brings something from the host to the device."""
        device = self._weights.device
        positions, masks = self._masks.build(step)
        cos, sin = self._angles.at(positions, max(step.ends))
        found = (masks,) if isinstance(masks, torch.Tensor) else tuple(masks.values())
        group = self._weights.num_heads // self._weights.num_kv_heads if is_folded(step.width) else 1
        return PassTensors(
            cos=cos,
            sin=sin,
            rows=step.row_index(device)[:, None, None],
            columns=_columns(step).to(device)[:, None],
            masks=tuple(mask.repeat(1, 1, group, 1) for mask in found) if group > 1 else found,
        )

    def run(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
        inputs: PassTensors,
        buffers: Sequence[KeyValues],  # of layer `first` and on
        first_row: int | None,
        first: int,
        taps: Collection[int],
        beside: torch.Tensor | None = None,  # [batch, width, hidden]
    ) -> LayersOutput:
        """The layers for which there are buffers. No step of it waits for the device or depends on what it holds."""
        kept: dict[int, torch.Tensor] = {}
        for number, layer_buffers in enumerate(buffers, start=first):
            hidden = self._layers[number](hidden, layer_buffers, inputs, first_row, beside)
            if number + 1 in taps:
                kept[number + 1] = hidden
        return LayersOutput(hidden, kept)


class _Angles:
    """Cosines and signed sines of all positions in the type of the model, as one table that is looked up once."""

    def __init__(self, weights: FamilyWeights) -> None:
        self._rotary = weights.rotary
        self._dtype = weights.dtype
        self._source: RotaryTables | None = None
        self._table = torch.empty(0)  # [positions, 2 * rotary_dim]

    def at(self, positions: torch.Tensor, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, width] -> each [batch, width, 1, rotary_dim]; all positions are below `num_positions`."""
        tables = self._rotary.tables(num_positions)
        if tables is not self._source:
            self._source, (cos, sin) = tables, tables
            with torch.inference_mode(False):
                self._table = torch.cat([cos, cos, -sin, sin], dim=1).to(self._dtype)
        cos, sin = functional.embedding(positions, self._table).unsqueeze(2).chunk(2, dim=3)
        return cos, sin


def _columns(step: CachePass) -> torch.Tensor:  # [batch, width]
    starts, widths = torch.tensor([step.starts, step.widths]).unsqueeze(-1)
    offsets = torch.arange(step.width)
    columns: torch.Tensor = starts + offsets
    return columns.masked_fill_(offsets >= widths, -1)
