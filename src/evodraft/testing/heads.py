"""Tiny EAGLE-3 heads with random weights, for any target, and a drafter over a table.

Weights depend on the sizes and the seed alone, and are large enough that every number a head reads matters. Nothing is
trained: with a small vocabulary some drafts are accepted, with a large one hardly any.

This module does not know files or tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedModel

from evodraft.drafters.eagle.drafter import EagleDrafter
from evodraft.drafters.eagle.head import EagleHead, EagleShape
from evodraft.drafters.eagle.step import choose_step
from evodraft.drafters.sliced_head import SlicedHead
from evodraft.runtime.choose import RuntimeOptions
from evodraft.testing.table import DENOMINATOR, TableLM


def tiny_head(
    target: PreTrainedModel,
    *,
    taps: Sequence[int] | None = None,
    token_ids: Sequence[int] | None = None,
    has_own_embedding: bool = False,
    norm_before_residual: bool = False,
    seed: int = 0,
    **changes: Any,
) -> EagleHead:
    """A head in eval mode, in the dtype and on the device of `target`.

    Args:
        target: the model it drafts for.
        taps: layers of the target that it reads; None = embeddings, middle and last.
        token_ids: the target's ids, ascending, of the rows of an output matrix of its own; None = it uses the target's.
        has_own_embedding: else it reads the target's.
        norm_before_residual: see EagleShape.
        seed: of the weights.
        **changes: go into the config of its layer.

    >>> from evodraft.testing.tiny import tiny_model
    >>> head = tiny_head(tiny_model("qwen3"), token_ids=[3, 7, 9])
    >>> head.shape.taps, head.lm_head.weight.shape, head.token_ids.tolist()
    ((0, 1, 2), torch.Size([3, 32]), [3, 7, 9])
    """
    facts = target.config.get_text_config()
    depth, width = facts.num_hidden_layers, facts.hidden_size
    embedding = target.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    vocab_size = embedding.num_embeddings
    shape = EagleShape(
        config=LlamaConfig(**(_sizes(width, vocab_size) | changes)),
        target_hidden_size=width,
        taps=(0, depth // 2, depth) if taps is None else tuple(taps),
        draft_vocab_size=None if token_ids is None else len(token_ids),
        norm_before_residual=norm_before_residual,
        has_own_embedding=has_own_embedding,
    )
    head = _random_head(shape, seed)
    if token_ids is not None:
        head.token_ids = torch.tensor(token_ids)
    return head.to(target.device, target.dtype)


def table_eagle(table: TableLM, num_slots: int = 8, max_length: int = 64) -> EagleDrafter:
    """An EAGLE-3 drafter for a TableDecoder, whose hidden states are the table's laws. Its own laws are dyadic too.

    >>> table_eagle(TableLM.random(4, order=2, seed=0)).needs.taps
    (0, 1, 2)
    """
    size = table.vocab_size
    shape = EagleShape(LlamaConfig(**_sizes(32, size)), target_hidden_size=size, taps=(0, 1, 2), draft_vocab_size=size)
    head = _random_head(replace(shape, has_own_embedding=True), seed=0)
    assert head.embed_tokens is not None
    assert head.lm_head is not None
    step = choose_step(head, RuntimeOptions("eager"))
    output = _DyadicHead(head.lm_head.weight, None, None, step.linear)
    embedding = head.embed_tokens.weight.detach()
    return EagleDrafter(head, embedding, output, num_slots, max_length, step=step, vocab_size=size)


class _DyadicHead(SlicedHead):
    """Rounds its laws to parts of a power of two, so that whoever adds them up gets exact fractions."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:  # [..., hidden] -> [..., rows]
        law = super().__call__(hidden).double().softmax(dim=-1)
        parts = (law * DENOMINATOR).floor()
        rest = DENOMINATOR - parts.sum(dim=-1, keepdim=True)
        return parts.scatter_add(-1, law.argmax(dim=-1, keepdim=True), rest).log() - math.log(DENOMINATOR)


def _random_head(shape: EagleShape, seed: int) -> EagleHead:
    head = EagleHead(shape)
    _fill(head, torch.Generator().manual_seed(seed))
    return head.eval().requires_grad_(False)


def _sizes(width: int, vocab_size: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": width + 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": vocab_size,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _fill(head: torch.nn.Module, generator: torch.Generator) -> None:
    """Matrices of unit gain; norms near one and biases near zero, but none equal to another."""
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
            else:
                parameter.normal_(float("norm" in name), 0.1, generator=generator)
