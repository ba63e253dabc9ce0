"""Measure a model: loss by domain, by position and by exit on held-out streams, and how varied its outputs are.

Does not know: how the model was trained.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from evodraft.training.llama import exit_states, hidden_states
from evodraft.training.objective import CHUNK_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import LlamaForCausalLM

    from evodraft.training.data import TokenArray

EVALUATION_TOKENS = 4096  # of one forward pass
POSITION_EDGES = (0, 64, 256, 512, 1024, 2048)


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


@torch.no_grad()
def position_losses(
    model: LlamaForCausalLM, streams: Mapping[str, TokenArray], edges: Sequence[int] = POSITION_EDGES
) -> dict[str, float]:
    """Mean nats per token by position in a row of `edges[-1]` ids: "0-63" -> 3.2, ... Streams shorter than a row are
    left out; all positions see the same rows, so what falls is the gain from a longer context."""
    context = edges[-1]
    sums, num_rows = torch.zeros(context, dtype=torch.float64), 0
    for stream in streams.values():
        for inputs, labels in windows(torch.from_numpy(stream.astype("int64")), context):
            states = hidden_states(model, inputs).flatten(0, 1)
            sums += _token_losses(model, states, labels.flatten()).view(-1, context).sum(0, dtype=torch.float64)
            num_rows += len(inputs)
    means = sums / max(1, num_rows)
    return {f"{start}-{stop - 1}": float(means[start:stop].mean()) for start, stop in pairwise(edges) if num_rows}


@torch.no_grad()
def exit_losses(
    model: LlamaForCausalLM, streams: Mapping[str, TokenArray], depths: Sequence[int], context: int
) -> dict[int, float]:
    """Mean nats per token of stopping after each of `depths` layers, over whole windows of `context` ids."""
    sums, num_tokens = torch.zeros(len(depths), dtype=torch.float64), 0
    for stream in streams.values():
        for inputs, labels in windows(torch.from_numpy(stream.astype("int64")), context):
            for index, states in enumerate(exit_states(model, inputs, depths)):
                sums[index] += float(_token_losses(model, states.flatten(0, 1), labels.flatten()).sum())
            num_tokens += labels.numel()
    return dict(zip(depths, (sums / max(1, num_tokens)).tolist(), strict=True))


def distinct_share(sequences: Sequence[Sequence[int]], order: int = 4) -> float:
    """Share of different `order`-grams among all of each sequence, averaged over sequences; 1.0 = nothing repeats."""
    shares = []
    for sequence in sequences:
        grams = [tuple(sequence[index : index + order]) for index in range(len(sequence) - order + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else 1.0


def windows(ids: torch.Tensor, context: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of (inputs, labels)  # each [batch, context]; what does not fill a row is left out."""
    num_rows = (len(ids) - 1) // context
    inputs, labels = ids[: num_rows * context].view(-1, context), ids[1 : num_rows * context + 1].view(-1, context)
    batch = max(1, EVALUATION_TOKENS // context)
    for start in range(0, num_rows, batch):
        yield inputs[start : start + batch], labels[start : start + batch]


@torch.no_grad()
def _stream_loss(model: LlamaForCausalLM, ids: torch.Tensor, context: int) -> StreamLoss:
    total, num_tokens = 0.0, 0
    for inputs, labels in windows(ids, context):
        states = hidden_states(model, inputs).flatten(0, 1)
        total += float(_token_losses(model, states, labels.flatten()).sum())
        num_tokens += labels.numel()
    return StreamLoss(total / num_tokens, num_tokens)


def _token_losses(model: LlamaForCausalLM, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats  # [tokens]  of `labels`  # [tokens]  under `states`  # [tokens, hidden]."""
    chunks = zip(states.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True)
    head = model.lm_head.weight.t()
    return torch.cat([functional.cross_entropy(rows @ head, ids, reduction="none") for rows, ids in chunks])


def _mean(losses: Sequence[StreamLoss]) -> StreamLoss:
    num_tokens = sum(loss.num_tokens for loss in losses)
    return StreamLoss(sum(loss.nats * loss.num_tokens for loss in losses) / num_tokens, num_tokens)
