"""Train the target: a small Llama, next-token cross-entropy, phases of growing depth and context.

A run is resumable at any checkpoint and then continues bit for bit as if it had not stopped. Does not know: where the
streams come from, how drafts are made, or anything about decoding.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evodraft.errors import TrainingError
from evodraft.training.checkpoint import (
    Checkpoint,
    check_same,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from evodraft.training.data import BatchSampler, hash_streams
from evodraft.training.llama import Shape, build_model, exit_states, grow_depth
from evodraft.training.objective import chunked_cross_entropy
from evodraft.training.optimizers import OptimizerName, Optimizers, Schedule
from evodraft.training.provenance import describe_run
from evodraft.training.weights import load_weights, unique_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from transformers import LlamaForCausalLM

    from evodraft.training.data import TokenArray
    from evodraft.training.mix import Mix
    from evodraft.training.provenance import HeldOut, Provenance
    from evodraft.training.tokenizer import SpecialIds

REWARM_STEPS = 50


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training; `num_layers` never shrinks from one phase to the next."""

    num_steps: int
    num_layers: int
    batch: int
    context: int


@dataclass(frozen=True, slots=True)
class TargetRecipe:
    """All choices of a target run. Rates are peak learning rates of matrices and of everything else.

    From step `late_from` on, rows are drawn in the mix's late shares. With `exit_weight`, every step adds that much of
    the cross-entropy of one intermediate layer's exit, on the first `exit_share` of the rows; the layers, every second
    one, take turns. `parent_sha256` is the hash of the weights that a continued model began with.
    """

    phases: tuple[Phase, ...]
    shape: Shape = field(default_factory=Shape)
    optimizer: OptimizerName = "muon"
    matrix_rate: float = 5e-3
    other_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.5
    late_from: int | None = None
    exit_weight: float = 0.0
    exit_share: float = 0.25
    parent_sha256: str | None = None
    is_bfloat16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        depths = [phase.num_layers for phase in self.phases]
        if not depths or depths != sorted(depths) or depths[-1] != self.shape.num_layers:
            raise TrainingError(
                f"the phases have {depths} layers; they must grow to the shape's {self.shape.num_layers}"
            )
        if self.exit_weight < 0 or not 0 < self.exit_share <= 1:
            raise TrainingError(
                f"exit_weight is {self.exit_weight} and exit_share {self.exit_share}; give 0 or more, "
                "and a share above 0 and at most 1"
            )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(phase.num_steps for phase in self.phases)

    def phase(self, step: int) -> Phase:
        """The phase that `step` (from 0) belongs to."""
        for phase in self.phases:
            if step < phase.num_steps:
                return phase
            step -= phase.num_steps
        raise TrainingError(f"step {step} is beyond the recipe's {self.num_steps}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(json.loads(json.dumps(asdict(self))))


class StepReport(NamedTuple):
    """What one step did; `seconds` is its wall time, `loss` in nats per token before the update."""

    step: int
    loss: float
    gradient_norm: float
    num_tokens: int
    seconds: float


class TargetTrainer:
    """One run, from random weights or from those of `parent`; writes checkpoints only below `folder`.

    Owns model, optimizers and sampler.
    """

    def __init__(
        self,
        recipe: TargetRecipe,
        streams: Mapping[str, TokenArray],
        mix: Mix,
        ids: SpecialIds,
        vocabulary_size: int,
        folder: Path,
        parent: LlamaForCausalLM | None = None,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.data_sha256 = hash_streams(streams)
        self.step, self.num_tokens, self.seconds = 0, 0, 0.0
        self._ids, self._vocabulary_size = ids, vocabulary_size
        self._mix = mix
        self._sampler = BatchSampler(streams, mix.shares, torch.Generator().manual_seed(recipe.seed))
        self._schedule = Schedule(recipe.num_steps, recipe.warmup_steps, recipe.decay_share)
        self._grown_at: int | None = None
        model = self._build(recipe.phases[0].num_layers)
        if parent is not None:
            load_weights(model, unique_weights(parent))
        self._set_model(model)

    def resume(self) -> bool:
        """Continue from the newest checkpoint in the folder, if any; returns whether there was one.

        Raises `WeightsError` for a damaged checkpoint, `TrainingError` for one of other data or another mix.
        """
        path = latest_checkpoint(self.folder)
        if path is None:
            return False
        checkpoint = load_checkpoint(path)
        progress = checkpoint.progress
        check_same("data_sha256", progress["data_sha256"], self.data_sha256)
        model = self._build(int(progress["num_layers"]))
        load_weights(model, checkpoint.weights)
        self._set_model(model)
        self._optimizers.restore(list(checkpoint.optimizer))
        self._sampler.restore(progress["sampler"])
        self.step, self.num_tokens = int(progress["step"]), int(progress["num_tokens"])
        self.seconds, self._grown_at = float(progress["seconds"]), progress["grown_at"]
        return True

    def run(
        self, until: int | None = None, checkpoint_every: int = 250, report: Callable[[StepReport], None] | None = None
    ) -> LlamaForCausalLM:
        """Train to step `until` (the recipe's end by default), checkpointing on the way and at the end."""
        last = self.recipe.num_steps if until is None else min(until, self.recipe.num_steps)
        while self.step < last:
            done = self._advance()
            if report is not None:
                report(done)
            if self.step % checkpoint_every == 0 or self.step == last:
                self.save()
        return self.model

    def save(self) -> Path:
        """Write a checkpoint of the present state."""
        progress = {
            "step": self.step,
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
            "num_layers": self.model.config.num_hidden_layers,
            "grown_at": self._grown_at,
            "sampler": self._sampler.state(),
            "data_sha256": self.data_sha256,
            "recipe": self.recipe.as_dict(),
        }
        checkpoint = Checkpoint(unique_weights(self.model), self._optimizers.state(), progress)
        return save_checkpoint(self.folder, self.step, checkpoint)

    def describe(self, losses: HeldOut) -> Provenance:
        """The record of the run up to now."""
        return describe_run(self.data_sha256, self.recipe.as_dict(), losses, self.seconds, self.num_tokens)

    def _advance(self) -> StepReport:
        started = time.perf_counter()
        phase = self.recipe.phase(self.step)
        if phase.num_layers != self.model.config.num_hidden_layers:
            self._set_model(grow_depth(self.model, phase.num_layers, self._ids, self.recipe.shape))
            self._grown_at = self.step
        loss = self._backward(self._next_batch(phase))
        norm = self._optimizers.step(self._rate_factor())
        self.step += 1
        num_tokens = phase.batch * phase.context
        seconds = time.perf_counter() - started
        self.num_tokens, self.seconds = self.num_tokens + num_tokens, self.seconds + seconds
        return StepReport(self.step, loss, norm, num_tokens, seconds)

    def _next_batch(self, phase: Phase) -> torch.Tensor:
        late_from = self.recipe.late_from
        is_late = late_from is not None and self.step >= late_from
        self._sampler.set_shares(self._mix.late_shares if is_late else self._mix.shares)
        return self._sampler.next_batch(phase.batch, phase.context)

    def _backward(self, batch: torch.Tensor) -> float:
        """Adds the gradients of the loss; returns the cross-entropy of the last layer."""
        recipe, depth = self.recipe, self.model.config.num_hidden_layers
        precision = torch.bfloat16 if recipe.is_bfloat16 else torch.float32
        exit_depth = 2 * (1 + self.step % ((depth - 1) // 2)) if recipe.exit_weight and depth > 2 else None
        depths = [depth] if exit_depth is None else [depth, exit_depth]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.is_bfloat16):
            states = exit_states(self.model, batch[:, :-1], depths)
        labels = batch[:, 1:]
        loss = chunked_cross_entropy(states[0].flatten(0, 1).to(precision), self.model.lm_head.weight, labels.flatten())
        total = loss
        for early in states[1:]:
            num_rows = max(1, round(recipe.exit_share * len(batch)))
            rows = early[:num_rows].flatten(0, 1).to(precision)
            early_loss = chunked_cross_entropy(rows, self.model.lm_head.weight, labels[:num_rows].flatten())
            total = total + recipe.exit_weight * early_loss
        total.backward()
        value = loss.item()
        if value != value:
            raise TrainingError(f"the loss is NaN at step {self.step}; lower the learning rates and resume")
        return value

    def _rate_factor(self) -> float:
        factor = self._schedule.factor(self.step)
        if self._grown_at is None:
            return factor
        return factor * min(1.0, (self.step - self._grown_at + 1) / REWARM_STEPS)

    def _build(self, num_layers: int) -> LlamaForCausalLM:
        shape = Shape(**{**asdict(self.recipe.shape), "num_layers": num_layers})
        return build_model(shape, self._vocabulary_size, self._ids, self.recipe.seed)

    def _set_model(self, model: LlamaForCausalLM) -> None:
        recipe = self.recipe
        model.train()
        self.model = model
        self._optimizers = Optimizers(model, recipe.optimizer, recipe.matrix_rate, recipe.other_rate)
