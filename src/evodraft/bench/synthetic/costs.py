"""What speculative decoding costs at real scale: random pairs under forced acceptance, heads of large vocabularies.

Does not know suites; a quick look at costs, not a benchmark of a method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from evodraft.bench.roofline.timing import Timer, median_ms, timer_for
from evodraft.bench.synthetic.forced import ForcedAcceptance
from evodraft.llm import LLM
from evodraft.runtime.placement import chosen_device

if TYPE_CHECKING:
    from evodraft.bench.roofline.timing import Action
    from evodraft.bench.synthetic.forced import ScheduleName
    from evodraft.bench.synthetic.pair import RandomPair
    from evodraft.types import Completion


@dataclass(frozen=True, slots=True)
class ForcedCost:
    """Speed of a random pair at one batch size: plain, or with a forced acceptance rate."""

    batch_size: int
    rate: float | None  # None = plain decoding
    tokens_per_s: float  # of all requests of the batch together, median over repeats
    speed_up: float  # over plain decoding: median of the ratios of neighbouring runs
    mean_acceptance_length: float
    note: str  # why it is no figure of a real model


@dataclass(frozen=True, slots=True)
class HeadCost:
    """Logits of `num_tokens` positions over a vocabulary: one matrix product."""

    hidden_size: int
    vocab_size: int
    num_tokens: int
    ms: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded, and how."""

    num_draft_tokens: int = 5
    num_prompt_tokens: int = 64
    max_new_tokens: int = 64
    temperature: float = 0.7
    repeats: int = 3
    schedule: ScheduleName = "even"
    seed: int = 0


class _Run(NamedTuple):
    tokens_per_s: float
    acceptance_length: float


def forced_costs(
    pair: RandomPair, rates: Sequence[float], batch_sizes: Sequence[int], workload: Workload = Workload()
) -> list[ForcedCost]:
    """Plain decoding and every rate in turn, for each batch size.

    Raises ConfigError for a pair without a draft, BenchError for a rate that is none.
    """
    return [cost for batch_size in batch_sizes for cost in _costs(pair, rates, batch_size, workload)]


def head_costs(
    hidden_size: int,
    vocab_sizes: Sequence[int],
    dtype: torch.dtype,
    device: str | torch.device = "auto",
    widths: Sequence[int] = (1, 6),
    timer: Timer | None = None,
) -> list[HeadCost]:
    """What logits over vocabularies cost, for as many positions as `widths` say; weights are zeros."""
    place = chosen_device(device)
    costs = []
    for vocab_size in vocab_sizes:
        weight = torch.zeros(vocab_size, hidden_size, dtype=dtype, device=place)
        actions = {width: _product(weight, width) for width in widths}
        measured = median_ms(actions, timer or timer_for(place), repeats=15, max_s=10.0)
        costs += [HeadCost(hidden_size, vocab_size, width, ms) for width, ms in measured.items()]
    return costs


def _product(weight: torch.Tensor, width: int) -> Action:
    states = weight.new_ones(width, weight.shape[1])
    return lambda: functional.linear(states, weight)


def _costs(pair: RandomPair, rates: Sequence[float], batch_size: int, workload: Workload) -> Iterator[ForcedCost]:
    verifiers = {rate: ForcedAcceptance(rate, workload.schedule, workload.seed) for rate in rates}
    notes = {rate: f"{pair.note}; {verifier.note}" for rate, verifier in verifiers.items()}
    methods = dict[float | None, ForcedAcceptance | None]([(None, None), *verifiers.items()])
    llms = {rate: _llm(pair, verifier, batch_size, workload) for rate, verifier in methods.items()}
    runs: dict[float | None, list[_Run]] = {rate: [] for rate in methods}
    for repeat in range(workload.repeats + 1):  # the first is the warm-up
        for rate, llm in llms.items():
            run = _run(llm, batch_size, workload)
            runs[rate] += [run] if repeat else []
    for rate, done in runs.items():
        yield ForcedCost(
            batch_size=batch_size,
            rate=rate,
            tokens_per_s=median(run.tokens_per_s for run in done),
            speed_up=median(r.tokens_per_s / p.tokens_per_s for r, p in zip(done, runs[None], strict=True)),
            mean_acceptance_length=fmean(run.acceptance_length for run in done),
            note=pair.note if rate is None else notes[rate],
        )


def _llm(pair: RandomPair, verifier: ForcedAcceptance | None, batch_size: int, workload: Workload) -> LLM:
    """Plain decoding without a verifier; else a fixed number of draft tokens."""
    limits: dict[str, Any] = {
        "max_batch": batch_size,
        "max_model_len": workload.num_prompt_tokens + workload.max_new_tokens,
        "seed": workload.seed,
    }
    target = (pair.target.model, pair.target.tokenizer)
    if verifier is None:
        return LLM.from_pretrained(target, drafter=None, **limits)
    drafter = {"name": "model", "model": pair.draft}
    return LLM.from_pretrained(
        target, drafter=drafter, controller=f"fixed:{workload.num_draft_tokens}", verifier=verifier, **limits
    )


def _run(llm: LLM, batch_size: int, workload: Workload) -> _Run:
    generator = torch.Generator().manual_seed(workload.seed)
    shape = (batch_size, workload.num_prompt_tokens)
    prompts = torch.randint(llm.engine.target.vocab_size, shape, generator=generator).tolist()
    outs: list[Completion] = llm.generate(
        prompt_token_ids=prompts, max_new_tokens=workload.max_new_tokens, temperature=workload.temperature
    )
    stats = [out.raise_for_error().stats for out in outs]
    num_tokens = sum(stat.num_tokens for stat in stats)
    num_rounds = sum(stat.num_rounds for stat in stats)
    num_round_tokens = sum(stat.num_round_tokens for stat in stats)
    return _Run(num_tokens / max(s.decode_s for s in stats), num_round_tokens / num_rounds if num_rounds else 1.0)
