"""Measure a model: loss by domain on held-out streams, and how varied its greedy continuations are.

Does not know: how the model was trained.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from evodraft.training.llama import hidden_states
from evodraft.training.objective import CHUNK_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import LlamaForCausalLM

    from evodraft.training.data import TokenArray

EVALUATION_BATCH = 8


class StreamLoss(NamedTuple):
    """Mean loss over `num_tokens` predicted ids."""

    nats: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the loss."""
        return math.exp(self.nats)


def stream_losses(
    model: LlamaForCausalLM, streams: Mapping[str, TokenArray], context: int, max_tokens: int | None = None
) -> dict[str, StreamLoss]:
    """Loss of each stream in windows of `context` ids, the first `max_tokens` ids of each; too short ones left out."""
    losses = {}
    for slug, stream in streams.items():
        ids = torch.from_numpy(stream[:max_tokens].astype("int64"))
        if len(ids) > 1:
            losses[slug] = _stream_loss(model, ids, min(context, len(ids) - 1))
    return losses


def domain_losses(losses: Mapping[str, StreamLoss]) -> dict[str, StreamLoss]:
    """Token-weighted means over the streams of each domain; a slug begins with its domain."""
    groups: dict[str, list[StreamLoss]] = defaultdict(list)
    for slug, loss in losses.items():
        groups[slug.split(".")[0]].append(loss)
    return {domain: _mean(group) for domain, group in groups.items()}


def distinct_share(sequences: Sequence[Sequence[int]], order: int = 4) -> float:
    """Share of different `order`-grams among all of each sequence, averaged over sequences; 1.0 = nothing repeats."""
    shares = []
    for sequence in sequences:
        grams = [tuple(sequence[index : index + order]) for index in range(len(sequence) - order + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else 1.0


@torch.no_grad()
def _stream_loss(model: LlamaForCausalLM, ids: torch.Tensor, context: int) -> StreamLoss:
    num_rows = (len(ids) - 1) // context
    inputs, labels = ids[: num_rows * context].view(-1, context), ids[1 : num_rows * context + 1].view(-1, context)
    total = 0.0
    for start in range(0, num_rows, EVALUATION_BATCH):
        rows, row_labels = inputs[start : start + EVALUATION_BATCH], labels[start : start + EVALUATION_BATCH]
        states, flat_labels = hidden_states(model, rows).flatten(0, 1), row_labels.flatten()
        for chunk, chunk_labels in zip(states.split(CHUNK_ROWS), flat_labels.split(CHUNK_ROWS), strict=True):
            logits = chunk @ model.lm_head.weight.t()  # [chunk, vocabulary]
            total += float(functional.cross_entropy(logits, chunk_labels, reduction="sum"))
    return StreamLoss(total / inputs.numel(), inputs.numel())


def _mean(losses: Sequence[StreamLoss]) -> StreamLoss:
    num_tokens = sum(loss.num_tokens for loss in losses)
    return StreamLoss(sum(loss.nats * loss.num_tokens for loss in losses) / num_tokens, num_tokens)
