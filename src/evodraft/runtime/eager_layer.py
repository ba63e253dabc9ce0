"""One decoder layer of the Llama family in few torch operators.

A plain layer is 16 operators: norm, QKV, rotation (3), two writes, attention, output, residual; norm, gate and up,
SiLU, product, down, residual. With several tokens per row, two copies order the heads. Rows that are no range of slots
cost two copies of what they read.

This module does not know slots, passes or positions: what differs between passes comes in as tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from evodraft.runtime.cache import KeyValues
from evodraft.runtime.family import FamilyWeights, LayerWeights, Matrix
from evodraft.runtime.packing import Linear, LinearMaker

FOLDED_WIDTH: Final = 16
"""Up to this many tokens per row, heads that share keys are computed as further tokens of one head. Beyond it the masks
would grow too large for that."""

Norm = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # [..., size] and [size] -> [..., size]


@dataclass(frozen=True, slots=True)
class PassTensors:
    """All that differs between passes of one shape. Nothing else may, so that a recorded pass can be replayed."""

    cos: torch.Tensor  # [batch, width, 1, rotary_dim]
    sin: torch.Tensor  # [batch, width, 1, rotary_dim], negative in the first half
    rows: torch.Tensor  # [batch, 1, 1] int64: rows of the buffers
    columns: torch.Tensor  # [batch, 1, width] int64: columns to write, -1 (the spare one) for padding
    masks: tuple[torch.Tensor, ...]  # each [batch, 1, width, columns], or [..., group * width, columns] if folded

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.cos, self.sin, self.rows, self.columns, *self.masks)

    def clone(self) -> PassTensors:
        """The same contents in memory of their own, for others to be copied into."""
        cos, sin, rows, columns, *masks = (tensor.clone() for tensor in self.tensors)
        return PassTensors(cos, sin, rows, columns, tuple(masks))


class EagerLayer:
    """Weights of one layer, joined; `mask` is the index of its mask in `PassTensors.masks`."""

    def __init__(self, model: FamilyWeights, layer: LayerWeights, mask: int, linear: LinearMaker) -> None:
        self._model = model
        self._layer = layer
        self._mask = mask
        self._group = model.num_heads // model.num_kv_heads
        self._num_rotated = model.num_heads + model.num_kv_heads
        self._qkv = joined_linear((layer.query, layer.key, layer.value), linear)
        self._output = linear(layer.output.weight, layer.output.bias)
        self._gate_up = joined_linear((layer.gate, layer.up), linear)
        self._down = linear(layer.down.weight, layer.down.bias)
        self._norm = norm_of(model)
        self._head_norms = _head_norms(model, layer)
        self._heads = torch.arange(model.num_kv_heads, device=model.device)[:, None]  # [kv_heads, 1]

    def __call__(
        self,
        hidden: torch.Tensor,  # [batch, width, hidden]
        buffers: KeyValues,  # whole, as SlotCache has them
        inputs: PassTensors,
        first_row: int | None,
        beside: torch.Tensor | None = None,  # [batch, width, hidden], the second input of a layer that has one
    ) -> torch.Tensor:  # [batch, width, hidden]
        """`first_row` is set if the pass's rows are first_row, first_row + 1, ...: then they are read in place."""
        layer = self._layer
        normed = self._normed(hidden, layer.attention_norm)
        states = normed if beside is None else torch.cat([self._normed(beside, layer.beside_norm), normed], dim=-1)
        attended = self._attention(states, buffers, inputs, first_row)
        hidden = (normed if layer.is_residual_normed else hidden) + self._normed(attended, layer.attention_out_norm)
        return hidden + self._normed(self._mlp(self._normed(hidden, layer.mlp_norm)), layer.mlp_out_norm)

    def _attention(
        self, states: torch.Tensor, buffers: KeyValues, inputs: PassTensors, first_row: int | None
    ) -> torch.Tensor:
        model = self._model
        qkv = self._qkv(states).unflatten(2, (-1, model.head_dim))  # [batch, width, heads + 2 * kv_heads, head_dim]
        rotated = _rotated(self._heads_normed(qkv[:, :, : self._num_rotated]), inputs)
        new = KeyValues(rotated[:, :, model.num_heads :], qkv[:, :, self._num_rotated :])
        where = (inputs.rows, self._heads, inputs.columns)
        for buffer, written in zip(buffers, new, strict=True):
            buffer.index_put_(where, written.transpose(1, 2))
        mask = inputs.masks[self._mask]
        seen = KeyValues(*(_seen(buffer, inputs, first_row, mask.shape[3]) for buffer in buffers))
        query = rotated[:, :, : model.num_heads].unflatten(2, (-1, self._group))
        attend = _attend_folded if is_folded(query.shape[1]) else _attend_by_group
        return self._output(attend(query, seen, mask, model.scaling))

    def _mlp(self, states: torch.Tensor) -> torch.Tensor:
        gate, up = self._gate_up(states).chunk(2, dim=-1)
        return self._down(functional.silu(gate).mul_(up))

    def _normed(self, states: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return states if weight is None else self._norm(states, weight)

    def _heads_normed(self, heads: torch.Tensor) -> torch.Tensor:  # [batch, width, heads + kv_heads, head_dim]
        if self._layer.query_norm is None or self._layer.key_norm is None:
            return heads
        if self._head_norms is not None:
            return self._norm(heads, None).mul_(self._head_norms)
        query, key = heads.split((self._model.num_heads, self._model.num_kv_heads), dim=2)
        normed = (
            self._norm(query.flatten(2), self._layer.query_norm),
            self._norm(key.flatten(2), self._layer.key_norm),
        )
        both: torch.Tensor = torch.cat(normed, dim=2).unflatten(2, (-1, self._model.head_dim))
        return both


def is_folded(width: int) -> bool:
    """Whether a pass of this width wants its masks repeated for every head of a group."""
    return width <= FOLDED_WIDTH


def norm_of(model: FamilyWeights) -> Norm:
    """The root mean square norm. transformers computes it in float32 even for a float64 model, and so it is here."""
    epsilon = model.norm_eps

    def fused(states: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return functional.rms_norm(states, (states.shape[-1],), weight, epsilon)

    def in_float32(states: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        single = states.float()
        normed = (single * torch.rsqrt(single.pow(2).mean(-1, keepdim=True) + epsilon)).to(states.dtype)
        return normed if weight is None else normed * weight

    return in_float32 if model.dtype == torch.float64 else fused


def joined_linear(matrices: Sequence[Matrix], linear: LinearMaker) -> Linear:
    """Several matrices of the same input as one. Copies the weights unless they are neighbours in memory already."""
    weights, biases = [matrix.weight for matrix in matrices], [matrix.bias for matrix in matrices]
    present = [bias for bias in biases if bias is not None]
    assert len(present) in (0, len(biases)), "joined matrices have a bias each, or none has one"
    return linear(_joined(weights), torch.cat(present) if present else None)


def _joined(weights: Sequence[torch.Tensor]) -> torch.Tensor:  # each [rows, columns]
    first, end = weights[0], weights[0].data_ptr()
    for weight in weights:
        if weight.data_ptr() != end or weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(weights))
        end += weight.nbytes
    return first.as_strided((sum(weight.shape[0] for weight in weights), first.shape[1]), first.stride())


def _head_norms(model: FamilyWeights, layer: LayerWeights) -> torch.Tensor | None:  # [heads + kv_heads, head_dim]
    """Weights of norms that take every head by itself, so that one call does for queries and keys."""
    query, key = layer.query_norm, layer.key_norm
    if query is None or key is None or query.shape[0] != model.head_dim:
        return None
    return torch.cat([query.expand(model.num_heads, -1), key.expand(model.num_kv_heads, -1)])


def _rotated(heads: torch.Tensor, inputs: PassTensors) -> torch.Tensor:  # [batch, width, heads, head_dim], both
    size = inputs.cos.shape[3]
    turning = heads[..., :size]
    first, second = turning.chunk(2, dim=3)
    swapped = torch.cat([second, first], dim=3)  # not roll: on an accelerator it copies what is not contiguous first
    turned = torch.addcmul(turning * inputs.cos, swapped, inputs.sin)
    return turned if size == heads.shape[3] else torch.cat([turned, heads[..., size:]], dim=3)


def _seen(buffer: torch.Tensor, inputs: PassTensors, first_row: int | None, columns: int) -> torch.Tensor:
    """The pass's rows of a buffer, [batch, kv_heads, columns, head_dim]: a view if they are a range, else a copy."""
    visible = buffer[:, :, :columns]
    if first_row is None:
        return visible.index_select(0, inputs.rows.flatten())
    return visible[first_row : first_row + inputs.rows.shape[0]]


def _attend_folded(
    query: torch.Tensor,  # [batch, width, kv_heads, group, head_dim]
    seen: KeyValues,
    mask: torch.Tensor,  # [batch, 1, group * width, columns]
    scaling: float,
) -> torch.Tensor:  # [batch, width, heads * head_dim]
    """The heads of a group as further queries of one head: keys are read once and no kernel has to know groups."""
    width = query.shape[1]
    folded = query.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [batch, kv_heads, group * width, head_dim]
    attended = functional.scaled_dot_product_attention(folded, *seen, mask, scale=scaling)
    joined: torch.Tensor = attended.unflatten(2, (-1, width)).permute(0, 3, 1, 2, 4).flatten(2)
    return joined


def _attend_by_group(
    query: torch.Tensor,  # [batch, width, kv_heads, group, head_dim]
    seen: KeyValues,
    mask: torch.Tensor,  # [batch, 1, width, columns]
    scaling: float,
) -> torch.Tensor:  # [batch, width, heads * head_dim]
    """One call for each member of the groups: no copy of keys or masks, however long the pass is."""
    attended = [
        functional.scaled_dot_product_attention(member.transpose(1, 2), *seen, mask, scale=scaling)
        for member in query.unbind(3)
    ]
    return torch.stack(attended, dim=2).permute(0, 3, 1, 2, 4).flatten(2)
