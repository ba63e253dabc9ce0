"""What speculative decoding costs at real scale: random pairs under forced acceptance, heads of large vocabularies.

Does not know suites; a quick look at costs, not a benchmark of a method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from evodraft.assemble import LoadOptions
from evodraft.bench.own import Method, Stage
from evodraft.bench.roofline.timing import Timer, median_ms, timer_for
from evodraft.bench.synthetic.forced import ForcedAcceptance
from evodraft.bench.synthetic.workload import Workload
from evodraft.config import EngineConfig
from evodraft.errors import BenchError
from evodraft.runtime.placement import chosen_device

if TYPE_CHECKING:
    from evodraft.bench.contestants import Ask
    from evodraft.bench.roofline.timing import Action
    from evodraft.bench.synthetic.pair import RandomPair


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


class _Run(NamedTuple):
    tokens_per_s: float
    acceptance_length: float


def forced_costs(
    pair: RandomPair,
    rates: Sequence[float],
    batch_sizes: Sequence[int],
    workload: Workload,
    load: LoadOptions,
) -> list[ForcedCost]:
    """Plain decoding and every rate in turn, for each batch size; `load` chooses the runtime.

    Raises ConfigError for a pair without a draft, BenchError for a rate that is none.
    """
    return [cost for batch_size in batch_sizes for cost in _costs(pair, rates, batch_size, workload, load)]


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


def _costs(
    pair: RandomPair, rates: Sequence[float], batch_size: int, workload: Workload, load: LoadOptions
) -> Iterator[ForcedCost]:
    methods = _methods(pair, rates, batch_size, workload, load)
    asks = workload.asks(pair.target.model.config.vocab_size, batch_size)
    runs: dict[float | None, list[_Run]] = {rate: [] for rate in methods}
    for repeat in range(workload.repeats + 1):  # the first is the warm-up
        for rate, method in methods.items():
            run = _run(method, asks)
            runs[rate] += [run] if repeat else []
    for rate, done in runs.items():
        yield ForcedCost(
            batch_size=batch_size,
            rate=rate,
            tokens_per_s=median(run.tokens_per_s for run in done),
            speed_up=median(r.tokens_per_s / p.tokens_per_s for r, p in zip(done, runs[None], strict=True)),
            mean_acceptance_length=fmean(run.acceptance_length for run in done),
            note=methods[rate].profile.synthetic or "",
        )


def _methods(
    pair: RandomPair, rates: Sequence[float], batch_size: int, workload: Workload, load: LoadOptions
) -> dict[float | None, Method]:
    """Plain decoding, and a fixed number of draft tokens at every rate."""
    limit = workload.num_prompt_tokens + workload.max_new_tokens
    stage = Stage(pair.target, load, EngineConfig(max_batch=batch_size, max_model_len=limit), synthetic=pair.note)
    drafting = {"drafter": {"name": "model", "model": pair.draft}, "controller": f"fixed:{workload.num_draft_tokens}"}
    methods: dict[float | None, Method] = {None: Method("plain", {"drafter": None}, stage)}
    for rate in rates:
        verifier = ForcedAcceptance(rate, workload.schedule, workload.seed)
        forced = replace(stage, verifier=verifier, synthetic=f"{pair.note}; {verifier.note}")
        methods[rate] = Method(verifier.note, drafting, forced)
    return methods


def _run(method: Method, asks: Sequence[Ask]) -> _Run:
    outcome = method.generate(asks)
    failed = next((answer.error for answer in outcome.answers if answer.error is not None), None)
    if failed is not None:
        raise BenchError(f"{method.profile.name}: {failed}")
    stats = [answer.stats for answer in outcome.answers if answer.stats is not None]
    num_rounds = sum(stat.num_rounds for stat in stats)
    num_round_tokens = sum(stat.num_round_tokens for stat in stats)
    assert outcome.decode_s is not None
    return _Run(
        sum(stat.num_tokens for stat in stats) / outcome.decode_s, num_round_tokens / num_rounds if num_rounds else 1.0
    )
