"""Small Llama models for the recipes: build them, grow them, run them fast on one CPU thread.

`hidden_states` is the training twin of transformers' `LlamaModel.forward`: same weights, same result, but whole-matrix
attention in the working precision, which on a CPU without matrix tiles is twice as fast as the library's kernel for the
short rows used here. Does not know: losses, optimizers, data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from evodraft.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    from evodraft.training.tokenizer import SpecialIds


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama model with tied embeddings; `head_size` times `num_heads` is the hidden size."""

    num_layers: int = 16
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 64
    intermediate_size: int = 704
    max_positions: int = 2048

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.num_heads * self.head_size


class Rotation(NamedTuple):
    """Rotary tables."""

    cos: torch.Tensor  # [sequence, head_size]
    sin: torch.Tensor  # [sequence, head_size]


def build_model(shape: Shape, vocabulary_size: int, ids: SpecialIds, seed: int) -> LlamaForCausalLM:
    """A float32 model with random weights that depend on `seed` only; the process's random state is left alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        bos_token_id=ids.separator,
        eos_token_id=[ids.separator, ids.end],
        pad_token_id=ids.pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: LlamaForCausalLM = LlamaForCausalLM(config).float()
    return model


def grow_depth(model: LlamaForCausalLM, num_layers: int, ids: SpecialIds, shape: Shape) -> LlamaForCausalLM:
    """A deeper copy whose layers repeat those of `model` in order (arXiv 2405.15319).

    Raises `TrainingError` unless `num_layers` is a multiple of the present depth.
    """
    depth = model.config.num_hidden_layers
    if num_layers % depth:
        raise TrainingError(f"cannot grow {depth} layers to {num_layers}; choose a multiple of {depth}")
    deeper = build_model(replace(shape, num_layers=num_layers), model.config.vocab_size, ids, seed=0)
    state = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    for index in range(num_layers):
        for name, value in model.model.layers[index % depth].state_dict().items():
            state[f"model.layers.{index}.{name}"] = value
    deeper.load_state_dict(state)
    return deeper


def hidden_states(model: LlamaForCausalLM, token_ids: torch.Tensor) -> torch.Tensor:
    """Final normalised states  # [batch, sequence, hidden]  of `token_ids`  # [batch, sequence]."""
    return exit_states(model, token_ids, (len(model.model.layers),))[0]


def exit_states(model: LlamaForCausalLM, token_ids: torch.Tensor, depths: Sequence[int]) -> list[torch.Tensor]:
    """States after each of `depths` layers, normalised as the last ones are  # each [batch, sequence, hidden].

    The output matrix turns them into what the model would say if it stopped there.
    """
    base = model.model
    states = functional.embedding(token_ids, base.embed_tokens.weight)
    rotation = _rotation(model, token_ids.shape[1])
    mask = torch.full((token_ids.shape[1],) * 2, float("-inf")).triu(1)  # [sequence, sequence]
    found = {}
    for depth, layer in enumerate(base.layers, start=1):
        states = _layer(layer, states, rotation, mask)
        if depth in depths:
            found[depth] = _norm(states, base.norm.weight, model.config.rms_norm_eps)
    return [found[depth] for depth in depths]


def _layer(layer: LlamaDecoderLayer, states: torch.Tensor, rotation: Rotation, mask: torch.Tensor) -> torch.Tensor:
    attention, mlp = layer.self_attn, layer.mlp
    epsilon = layer.input_layernorm.variance_epsilon
    normed = _norm(states, layer.input_layernorm.weight, epsilon)
    batch, sequence, _ = states.shape
    head_size = attention.head_dim
    query = _rotate(attention.q_proj(normed).view(batch, sequence, -1, head_size), rotation)
    key = _rotate(attention.k_proj(normed).view(batch, sequence, -1, head_size), rotation)
    value = attention.v_proj(normed).view(batch, sequence, -1, head_size)
    mixed = _attend(query * attention.scaling, key, value, mask)
    states = states + attention.o_proj(mixed)
    normed = _norm(states, layer.post_attention_layernorm.weight, epsilon)
    return torch.add(states, mlp.down_proj(functional.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed)))


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Grouped causal attention; arguments # [batch, sequence, heads, head_size], result # [batch, sequence, width]."""
    batch, sequence, num_heads, head_size = query.shape
    num_groups = key.shape[2]
    rows = query.view(batch, sequence, num_groups, -1, head_size).permute(0, 2, 3, 1, 4)
    rows = rows.reshape(batch * num_groups, -1, head_size)
    columns = key.permute(0, 2, 3, 1).reshape(batch * num_groups, head_size, sequence)
    scores = torch.bmm(rows, columns).view(-1, sequence, sequence) + mask.to(query.dtype)
    weights = scores.softmax(-1, dtype=scores.dtype).view(batch * num_groups, -1, sequence)
    contents = value.transpose(1, 2).reshape(batch * num_groups, sequence, head_size)
    mixed = torch.bmm(weights.to(contents.dtype), contents).view(batch, num_heads, sequence, head_size)
    return mixed.transpose(1, 2).reshape(batch, sequence, -1)


def _norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return functional.rms_norm(states.float(), (states.shape[-1],), weight, epsilon)


def _rotation(model: LlamaForCausalLM, sequence: int) -> Rotation:
    positions = torch.arange(sequence, dtype=torch.float32)
    angles = torch.outer(positions, model.model.rotary_emb.inv_freq.float())  # [sequence, head_size / 2]
    angles = torch.cat((angles, angles), dim=-1)
    return Rotation(angles.cos(), angles.sin())


def _rotate(states: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    cos, sin = (table.to(states.dtype)[:, None] for table in rotation)  # [sequence, 1, head_size]
    low, high = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-high, low), dim=-1) * sin
