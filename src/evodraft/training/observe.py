"""What a frozen target says about rows: hidden states that a head reads, and the laws that it learns.

Works with every model whose logits are its last hidden states times its output matrix. Does not know heads or losses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch.nn import functional

from evodraft.errors import TrainingError
from evodraft.training.rollout import Targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE_TOKENS: Final = 8
_TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest logit, for rounding
_SHORT_TOLERANCE: Final = 0.02


class Observed(NamedTuple):
    """A target's reading of rows."""

    taps: torch.Tensor  # [batch, sequence, taps * hidden]
    embedded: torch.Tensor  # [batch, sequence, hidden], rows of the embedding as they are stored
    targets: Targets  # its states are [batch * sequence, hidden]


def observe(
    target: PreTrainedModel,
    rows: torch.Tensor,  # [batch, sequence] int64
    taps: tuple[int, ...],
    *,
    is_bfloat16: bool = False,
) -> Observed:
    """Runs the target without gradients; tap i is the hidden state that enters layer i."""
    with torch.no_grad(), torch.autocast(rows.device.type, torch.bfloat16, enabled=is_bfloat16):
        run = target.base_model(rows, attention_mask=torch.ones_like(rows), output_hidden_states=True, use_cache=False)
        states = run.hidden_states
    precision = torch.bfloat16 if is_bfloat16 else torch.float32
    targets = Targets(states[-1].flatten(0, 1).to(precision), output_matrix(target).to(precision))
    tapped = torch.cat([states[tap] for tap in taps], dim=-1).float()
    return Observed(tapped, functional.embedding(rows, embedding_matrix(target)).float(), targets)


def embedding_matrix(target: PreTrainedModel) -> torch.Tensor:  # [vocab, hidden]
    """Detached, not copied."""
    return _weight(target.get_input_embeddings())


def output_matrix(target: PreTrainedModel) -> torch.Tensor:  # [vocab, hidden]
    """Detached, not copied."""
    return _weight(target.get_output_embeddings())


@torch.no_grad()
def check_target(target: PreTrainedModel) -> None:
    """Raises TrainingError unless logits are last hidden states times output matrix, which training relies on."""
    rows = torch.arange(_PROBE_TOKENS, device=target.device)[None] % len(embedding_matrix(target))
    logits = target(rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[0]  # [tokens, vocab]
    tolerance = _TOLERANCE.get(logits.dtype, _SHORT_TOLERANCE)
    observed = observe(target, rows, (0,))
    expected = functional.linear(observed.targets.states, observed.targets.output)
    gap = float((logits.float() - expected).abs().max() / expected.abs().max())
    if not gap <= tolerance:
        raise TrainingError(
            f"the logits of {target.config.model_type} differ from its last hidden states times its output matrix by "
            f"{gap:.2g} of the largest (at most {tolerance}): it scales or caps them, or has a bias; heads can be "
            "trained for targets without that"
        )


def _weight(module: torch.nn.Module | None) -> torch.Tensor:
    weight = None if module is None else module.weight
    if not isinstance(weight, torch.Tensor):
        raise TrainingError("the target has no embedding or no output matrix; give a causal language model")
    return weight.detach()
