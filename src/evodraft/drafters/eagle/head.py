"""The EAGLE-3 head as a torch module: weights under their published names, arithmetic as the paper has it.

At position i the head reads the target's hidden states after token i (or its own, while it drafts ahead) and token
i + 1, and offers token i + 2. Paper: arXiv 2503.01840. Does not know files, caches, slots or how it is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding

if TYPE_CHECKING:
    from transformers import LlamaConfig

NUM_TAPS: Final = 3  # low, middle and high

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(queries [..., heads, head_dim], keys and values [..., kv_heads, head_dim]), unrotated -> [..., heads, head_dim]."""


def published_taps(num_layers: int) -> tuple[int, int, int]:
    """The layers of the target that published heads read, as the decoder counts taps: 2, the middle, and 3 before the
    last.

    >>> published_taps(32)
    (2, 16, 29)
    """
    return 2, num_layers // 2, num_layers - 3


@dataclass(frozen=True, slots=True)
class EagleShape:
    """What a head is made for and of."""

    config: LlamaConfig  # of its one decoder layer; vocab_size is the target's
    target_hidden_size: int
    taps: tuple[int, ...]  # layers of the target, [NUM_TAPS]
    draft_vocab_size: int | None = None  # rows of its own output matrix; None = it uses the target's
    norm_before_residual: bool = False  # the residual stream starts from the normed states
    has_own_embedding: bool = False  # else it reads the target's


class EagleAttention(nn.Module):
    """Projections of the one attention block; who attends to what is the caller's."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        num_heads, hidden = config.num_attention_heads, config.hidden_size
        self.head_dim = config.head_dim or hidden // num_heads
        num_kv_heads, bias = config.num_key_value_heads or num_heads, bool(config.attention_bias)
        self.q_proj = nn.Linear(2 * hidden, num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(2 * hidden, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(2 * hidden, num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * self.head_dim, hidden, bias=bias)

    def forward(self, states: torch.Tensor, attend: Attend) -> torch.Tensor:  # [..., 2 * hidden] -> [..., hidden]
        parts = (self.q_proj(states), self.k_proj(states), self.v_proj(states))
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        mixed: torch.Tensor = self.o_proj(attend(query, key, value).flatten(-2))
        return mixed


class EagleLayer(nn.Module):
    """A Llama layer whose attention reads token and features side by side."""

    def __init__(self, config: LlamaConfig, *, norm_before_residual: bool) -> None:
        super().__init__()
        self.self_attn = EagleAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hidden_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_before_residual = norm_before_residual

    def forward(
        self,
        embedded: torch.Tensor,  # [..., hidden], of token i + 1
        features: torch.Tensor,  # [..., hidden], after token i
        attend: Attend,
    ) -> torch.Tensor:  # [..., hidden], the features after token i + 1
        normed = self.hidden_norm(features)
        residual = normed if self.norm_before_residual else features
        attended = self.self_attn(torch.cat((self.input_layernorm(embedded), normed), dim=-1), attend)
        hidden = residual + attended
        out: torch.Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class EagleHead(nn.Module):
    """All weights of a head. What it shares with the target (embedding, output matrix) is not in it.

    >>> from transformers import LlamaConfig
    >>> config = LlamaConfig(hidden_size=8, intermediate_size=16, num_attention_heads=2, vocab_size=32, head_dim=4)
    >>> head = EagleHead(EagleShape(config, target_hidden_size=12, taps=(2, 4, 5)))
    >>> head.fuse(torch.zeros(5, 36)).shape
    torch.Size([5, 8])
    """

    def __init__(self, shape: EagleShape) -> None:
        super().__init__()
        config, rows = shape.config, shape.draft_vocab_size
        self.shape = shape
        self.fc = nn.Linear(len(shape.taps) * shape.target_hidden_size, config.hidden_size, bias=False)
        self.midlayer = EagleLayer(config, norm_before_residual=shape.norm_before_residual)
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.lm_head = None if rows is None else nn.Linear(config.hidden_size, rows, bias=False)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size) if shape.has_own_embedding else None
        self.token_ids: torch.Tensor | None  # [rows of lm_head] int64: the target's id of each row; None = row = id
        self.register_buffer("token_ids", None if rows is None else torch.arange(rows), persistent=False)

    def fuse(self, taps: torch.Tensor) -> torch.Tensor:  # [..., taps * target hidden] -> [..., hidden]
        """Features from the target's hidden states, the lowest tap first."""
        fused: torch.Tensor = self.fc(taps)
        return fused
