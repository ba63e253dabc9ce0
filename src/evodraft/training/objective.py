"""Losses whose vocabulary-wide rows never exist all at once.

`chunked_cross_entropy` computes its gradients during the forward pass, a few hundred rows at a time, so memory stays
small and the caches of a CPU warm. Does not know: models, data, what the labels mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

CHUNK_ROWS = 256
RowLoss = Callable[[torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor]]


def chunked_cross_entropy(states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats, a scalar.

    `states`  # [rows, hidden], `weight`  # [vocabulary, hidden], `labels`  # [rows]. Matrix products run in the dtype
    of `states`; probabilities in float32. Gradients flow to `states` and `weight`.
    """

    def row_loss(logits: torch.Tensor, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = labels[start:stop, None]  # [chunk, 1]
        normaliser = logits.logsumexp(-1, keepdim=True)
        loss = (normaliser - logits.gather(1, rows)).sum()
        gradient = logits.sub_(normaliser).exp_()
        gradient.scatter_add_(1, rows, torch.full_like(rows, -1, dtype=gradient.dtype))
        return loss, gradient

    return _apply(states, weight, row_loss)


def chunked_forward_kl(
    states: torch.Tensor, weight: torch.Tensor, target_states: torch.Tensor, target_weight: torch.Tensor
) -> torch.Tensor:
    """Mean KL(p || q) in nats over whole laws at temperature 1: p from the target's states, q from the draft's.

    States  # [rows, hidden], weights  # [vocabulary, hidden]. Gradients flow to `states` and `weight` only.
    """

    def row_loss(logits: torch.Tensor, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        target_logits = (target_states[start:stop] @ target_weight.to(target_states.dtype).t()).float()
        log_p = target_logits.log_softmax(-1)  # [chunk, vocabulary]
        log_q = logits.log_softmax(-1)
        p = log_p.exp()
        return (p * (log_p - log_q)).sum(), log_q.exp_().sub_(p)

    return _apply(states, weight, row_loss)


class _ChunkedLoss(torch.autograd.Function):
    """Mean of a row loss; `row_loss(logits, start, stop)` returns the summed loss and its gradient in the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        row_loss: RowLoss,
    ) -> torch.Tensor:
        num_rows = states.shape[0]
        head = weight.detach().to(states.dtype)
        states_gradient, weight_gradient = torch.empty_like(states), torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float32)
        for start in range(0, num_rows, CHUNK_ROWS):
            rows = states[start : start + CHUNK_ROWS]
            loss, gradient = row_loss((rows @ head.t()).float(), start, start + CHUNK_ROWS)
            total += loss
            gradient = gradient.to(states.dtype)
            states_gradient[start : start + CHUNK_ROWS] = gradient @ head
            weight_gradient += gradient.t() @ rows
        ctx.save_for_backward(states_gradient.div_(num_rows), weight_gradient.div_(num_rows))
        return total / num_rows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        states_gradient, weight_gradient = ctx.saved_tensors
        return states_gradient * gradients[0], weight_gradient * gradients[0], None


def _apply(states: torch.Tensor, weight: torch.Tensor, row_loss: RowLoss) -> torch.Tensor:
    untyped: Any = _ChunkedLoss  # torch leaves `apply` unannotated
    return cast("torch.Tensor", untyped.apply(states, weight, row_loss))
