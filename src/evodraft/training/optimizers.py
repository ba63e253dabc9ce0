"""Optimizers and learning-rate schedule of the recipes.

Hidden matrices may be trained by Muon (arXiv 2502.16982: updates matched to AdamW's size, so one learning rate serves
both); embeddings, norms and everything else by AdamW. Does not know: losses, data, when a step is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from evodraft.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import nn

OptimizerName = Literal["muon", "adamw"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up, a constant part, and a linear decay to zero over the last `decay_share` of the steps."""

    num_steps: int
    warmup_steps: int = 100
    decay_share: float = 0.5

    def factor(self, step: int) -> float:
        """The learning rate of `step` (from 0) as a fraction of the peak."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay_steps = max(1, round(self.num_steps * self.decay_share))
        return min(warm, max(0.0, (self.num_steps - step) / decay_steps), 1.0)


class Optimizers:
    """The optimizers of one model, stepped together. Owns their state, not the model."""

    def __init__(
        self, model: nn.Module, name: OptimizerName, matrix_rate: float, other_rate: float, weight_decay: float = 0.1
    ) -> None:
        trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
        matrices = [value for key, value in trained.items() if value.ndim == 2 and "embed" not in key]
        embeddings = [value for key, value in trained.items() if value.ndim == 2 and "embed" in key]
        vectors = [value for value in trained.values() if value.ndim != 2]
        if not matrices:
            raise TrainingError("the model has no trainable matrices; unfreeze some layers")
        plain = [
            {"params": embeddings, "weight_decay": 0.0, "peak": other_rate},
            {"params": vectors, "weight_decay": 0.0, "peak": other_rate},
        ]
        self._parts: list[torch.optim.Optimizer] = []
        if name == "muon":
            muon = torch.optim.Muon(
                matrices, lr=matrix_rate, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            )
            muon.param_groups[0]["peak"] = matrix_rate
            self._parts.append(muon)
        else:
            plain.append({"params": matrices, "weight_decay": weight_decay, "peak": matrix_rate})
        self._parts.append(torch.optim.AdamW(plain, lr=other_rate, betas=(0.9, 0.95), fused=True))
        self._parameters = list(trained.values())

    def step(self, factor: float, max_norm: float = 1.0) -> float:
        """Clip, update and clear the gradients at `factor` times the peak rates; returns the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, max_norm)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> list[dict[str, Any]]:
        """Plain containers and tensors only, so that it loads with `weights_only=True`."""
        return [part.state_dict() for part in self._parts]

    def restore(self, states: list[Mapping[str, Any]]) -> None:
        """Take over a `state` of optimizers of the same kind over the same model."""
        if len(states) != len(self._parts):
            raise TrainingError("the checkpoint was written with another optimizer; resume with the same one")
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(dict(state))
