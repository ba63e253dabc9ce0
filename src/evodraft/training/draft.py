"""Distil a shallow draft from a target: same tokenizer, same width, forward KL to the target's full law.

The draft begins as the target's embeddings, a few of its layers and its final norm. It learns from corpus rows and from
continuations written by the target itself, which `generate` supplies. Does not know: how `generate` decodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from evodraft.errors import TrainingError
from evodraft.training.llama import Shape, build_model, hidden_states
from evodraft.training.objective import chunked_forward_kl
from evodraft.training.optimizers import OptimizerName, Optimizers, Schedule
from evodraft.training.target import StepReport
from evodraft.training.weights import load_weights, unique_weights

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from evodraft.training.data import BatchSampler
    from evodraft.training.tokenizer import SpecialIds

Generate = Callable[[torch.Tensor, int], torch.Tensor]
"""(prompts # [batch, prompt], length) -> prompts and continuations # [batch, length], sampled at temperature 1."""


@dataclass(frozen=True, slots=True)
class DraftRecipe:
    """All choices of a distillation. `source_layers` are the target layers the draft starts from, in order.

    With `parent_sha256`, the hash of its weights, another draft is continued instead.

    `generated_share` of the rows are target continuations of `prompt_length` corpus ids; they are made once, in
    `num_pools` batches of `pool_rows`, and reused.
    """

    num_steps: int
    source_layers: tuple[int, ...]
    batch: int = 16
    context: int = 256
    optimizer: OptimizerName = "muon"
    matrix_rate: float = 3e-3
    other_rate: float = 1e-3
    warmup_steps: int = 20
    decay_share: float = 0.6
    generated_share: float = 0.5
    num_pools: int = 4
    pool_rows: int = 64
    prompt_length: int = 32
    is_embedding_trained: bool = True
    is_bfloat16: bool = True
    parent_sha256: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.generated_share <= 1:
            raise TrainingError(f"generated_share is {self.generated_share}; give a number from 0 to 1")
        if self.prompt_length >= self.context:
            raise TrainingError(
                f"prompt_length {self.prompt_length} leaves nothing of context {self.context}; lower it"
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dict(json.loads(json.dumps(asdict(self))))


def shape_of(model: LlamaForCausalLM) -> Shape:
    """The sizes of a model built by this package."""
    config = model.config
    return Shape(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_size=config.head_dim or config.hidden_size // config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_positions=config.max_position_embeddings,
    )


def slice_draft(target: LlamaForCausalLM, source_layers: tuple[int, ...], ids: SpecialIds) -> LlamaForCausalLM:
    """A new model with the target's embeddings and final norm and the named layers only; copies, nothing shared.

    Raises `TrainingError` for a layer the target does not have.
    """
    depth = target.config.num_hidden_layers
    wrong = [index for index in source_layers if not 0 <= index < depth]
    if wrong or not source_layers:
        raise TrainingError(f"source layers {source_layers} are not within the target's 0..{depth - 1}")
    shape = replace(shape_of(target), num_layers=len(source_layers))
    draft = build_model(shape, target.config.vocab_size, ids, seed=0)
    weights = {name: value for name, value in unique_weights(target).items() if ".layers." not in name}
    for position, index in enumerate(source_layers):
        for name, value in target.model.layers[index].state_dict().items():
            weights[f"model.layers.{position}.{name}"] = value
    load_weights(draft, weights)
    return draft


def distil(
    target: LlamaForCausalLM,
    draft: LlamaForCausalLM,
    sampler: BatchSampler,
    generate: Generate | None,
    recipe: DraftRecipe,
    report: Callable[[StepReport], None] | None = None,
) -> LlamaForCausalLM:
    """Train `draft` in place against the frozen `target`; returns it.

    Each report's `loss` is KL(p || q) in nats per token. Without `generate` all rows come from the corpus.
    """
    pool = _generate_pool(sampler, generate, recipe) if generate and recipe.generated_share else None
    draft.model.embed_tokens.requires_grad_(recipe.is_embedding_trained)
    optimizers = Optimizers(draft, recipe.optimizer, recipe.matrix_rate, recipe.other_rate)
    schedule = Schedule(recipe.num_steps, recipe.warmup_steps, recipe.decay_share)
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.num_steps):
        started = time.perf_counter()
        rows = _mixed_rows(sampler, pool, recipe, generator)
        loss = divergence(target, draft, rows, recipe.is_bfloat16)
        loss.backward()
        norm = optimizers.step(schedule.factor(step))
        if report is not None:
            report(StepReport(step + 1, loss.item(), norm, rows.numel(), time.perf_counter() - started))
    draft.model.embed_tokens.requires_grad_(True)
    return draft


def divergence(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, rows: torch.Tensor, is_bfloat16: bool = False
) -> torch.Tensor:
    """Mean KL(target || draft) in nats over every position of `rows`  # [batch, sequence]; grows a graph on `draft`."""
    precision = torch.bfloat16 if is_bfloat16 else torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
        with torch.no_grad():
            target_states = hidden_states(target, rows).flatten(0, 1).to(precision)
        states = hidden_states(draft, rows).flatten(0, 1).to(precision)
    return chunked_forward_kl(states, draft.lm_head.weight, target_states, target.lm_head.weight.detach())


def _generate_pool(sampler: BatchSampler, generate: Generate, recipe: DraftRecipe) -> torch.Tensor:
    pools = []
    for _ in range(recipe.num_pools):
        prompts = sampler.next_batch(recipe.pool_rows, recipe.prompt_length - 1)
        rows = generate(prompts, recipe.context)
        if rows.shape != (recipe.pool_rows, recipe.context):
            raise TrainingError(
                f"generate returned {tuple(rows.shape)} ids, ({recipe.pool_rows}, {recipe.context}) were asked for"
            )
        pools.append(rows)
    return torch.cat(pools)


def _mixed_rows(
    sampler: BatchSampler, pool: torch.Tensor | None, recipe: DraftRecipe, generator: torch.Generator
) -> torch.Tensor:
    num_generated = round(recipe.batch * recipe.generated_share) if pool is not None else 0
    rows = []
    if recipe.batch > num_generated:
        rows.append(sampler.next_batch(recipe.batch - num_generated, recipe.context - 1))
    if pool is not None and num_generated:
        rows.append(pool[torch.randint(len(pool), (num_generated,), generator=generator)])
    return torch.cat(rows)
