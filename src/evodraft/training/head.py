"""Train an EAGLE-3 head (arXiv 2503.01840) for a frozen target: the roll-out's divergence from the target's laws.

A run is planned in steps or in minutes and goes on from its newest checkpoint. Does not know: where rows come from,
how heads are stored.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evodraft.errors import TrainingError
from evodraft.training.checkpoint import Checkpoint, check_same, latest_checkpoint, load_checkpoint, save_checkpoint
from evodraft.training.head_score import depth_means, draft_rows
from evodraft.training.optimizers import OptimizerName, Optimizers
from evodraft.training.rollout import divergence

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from evodraft.drafters.eagle.head import EagleHead
    from evodraft.training.generated import Rows


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """All choices of a head's training, except how long it lasts.

    Depth k of `num_depths` weighs `depth_decay ** k`; beyond the first, only `root_share` of the positions go on, drawn
    anew at each step. The rates are constant after the warm-up and fall linearly to zero in the last `decay_share`.
    """

    num_depths: int = 5
    depth_decay: float = 0.9
    root_share: float = 0.5
    batch: int = 8
    context: int = 256
    optimizer: OptimizerName = "muon"
    matrix_rate: float = 4e-3
    other_rate: float = 2e-3
    warmup_steps: int = 20
    decay_share: float = 0.6
    is_bfloat16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.root_share <= 1 or not 0 < self.decay_share <= 1:
            raise TrainingError(
                f"root_share {self.root_share} and decay_share {self.decay_share} are shares; give above 0 to at most 1"
            )
        if not 1 <= self.num_depths < self.context - 1:
            raise TrainingError(
                f"num_depths {self.num_depths} does not fit rows of {self.context} tokens; give 1 to {self.context - 2}"
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(json.loads(json.dumps(asdict(self))))


class Length(NamedTuple):
    """How long a run lasts: optimizer steps, or minutes of training. The shorter one ends it."""

    num_steps: int | None = None
    minutes: float | None = None

    def share(self, step: int, seconds: float) -> float:
        """How much of the run lies behind, 1.0 or more at its end."""
        done = 0.0 if self.num_steps is None else step / max(1, self.num_steps)
        return done if self.minutes is None else max(done, seconds / max(1e-9, 60 * self.minutes))


class HeadReport(NamedTuple):
    """What one step did; tuples have one value for each depth, before the update."""

    step: int
    loss: float
    gradient_norm: float
    num_tokens: int
    seconds: float
    divergence: tuple[float, ...]
    overlap: tuple[float, ...]
    agreement: tuple[float, ...]


class HeadTrainer:
    """One run; writes checkpoints only below `folder`. Owns head, optimizers and rows; `target` is read."""

    def __init__(self, target: PreTrainedModel, head: EagleHead, rows: Rows, recipe: HeadRecipe, folder: Path) -> None:
        self.target, self.head, self.recipe, self.folder = target, head, recipe, folder
        self.step, self.num_tokens, self.seconds = 0, 0, 0.0
        self.is_stopped = False
        self._rows = rows
        self._optimizers = Optimizers(head, recipe.optimizer, recipe.matrix_rate, recipe.other_rate)

    def resume(self) -> bool:
        """Continue from the newest checkpoint in the folder, if any; returns whether there was one."""
        path = latest_checkpoint(self.folder)
        if path is None:
            return False
        checkpoint = load_checkpoint(path)
        progress = checkpoint.progress
        check_same("recipe", progress["recipe"], self.recipe.as_dict())
        self.head.load_state_dict(checkpoint.weights)
        self._optimizers.restore(list(checkpoint.optimizer))
        self._rows.restore(progress["rows"])
        self.step, self.num_tokens = int(progress["step"]), int(progress["num_tokens"])
        self.seconds = float(progress["seconds"])
        return True

    def run(
        self, length: Length, checkpoint_every: int = 100, report: Callable[[HeadReport], None] | None = None
    ) -> EagleHead:
        """Train until `length` is over or `stop` is called, checkpointing on the way and at the end."""
        if length == Length():
            raise TrainingError("the run has no end; give a number of steps or minutes")
        while length.share(self.step, self.seconds) < 1 and not self.is_stopped:
            done = self._advance(length)
            if report is not None:
                report(done)
            if self.step % checkpoint_every == 0:
                self.save()
        self.save()
        return self.head

    def stop(self) -> None:
        """End `run` after the present step; it can be resumed."""
        self.is_stopped = True

    def save(self) -> Path:
        """Write a checkpoint of the present state."""
        progress = {
            "step": self.step,
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
            "rows": self._rows.state(),
            "recipe": self.recipe.as_dict(),
        }
        weights = {name: value.detach().clone() for name, value in self.head.state_dict().items()}
        return save_checkpoint(self.folder, self.step, Checkpoint(weights, self._optimizers.state(), progress))

    def _advance(self, length: Length) -> HeadReport:
        started, recipe = time.perf_counter(), self.recipe
        rows = self._rows.next_batch(recipe.batch, recipe.context)
        roots = self._draw_roots()
        rollout, targets = draft_rows(
            self.target, self.head, rows, recipe.num_depths, roots, is_bfloat16=recipe.is_bfloat16
        )
        loss, scores = divergence(rollout, self._weights(rollout.depths), targets)
        loss.backward()
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {self.step}; lower the learning rates and resume")
        norm = self._optimizers.step(self._factor(length))
        seconds = time.perf_counter() - started
        self.step, self.num_tokens, self.seconds = self.step + 1, self.num_tokens + rows.numel(), self.seconds + seconds
        means = depth_means(rollout.depths, scores, recipe.num_depths)
        return HeadReport(self.step, value, norm, rows.numel(), seconds, *means)

    def _draw_roots(self) -> torch.Tensor:  # -> [roots] int64 ascending
        """Position 0 is always one of them, so that no depth is empty."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        drawn = torch.randperm(recipe.context, generator=generator)[: round(recipe.root_share * recipe.context)]
        roots: torch.Tensor = torch.cat((drawn, torch.zeros(1, dtype=torch.int64))).unique()
        return roots

    def _weights(self, depths: torch.Tensor) -> torch.Tensor:  # [lines] -> [lines], sum 1
        num_depths = self.recipe.num_depths
        shares = torch.pow(self.recipe.depth_decay, torch.arange(num_depths, device=depths.device))
        return (shares / shares.sum() / torch.bincount(depths, minlength=num_depths))[depths]

    def _factor(self, length: Length) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.recipe.warmup_steps))
        return min(warm, max(0.0, 1 - length.share(self.step, self.seconds)) / self.recipe.decay_share)
