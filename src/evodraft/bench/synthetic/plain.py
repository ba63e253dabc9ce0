"""Plain decoding of one random model by several runtimes, and by transformers' own `generate`, in turns.

Does not know suites, or what reading the weights allows: see `evodraft.bench.roofline`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from evodraft.bench.measure import Batch, Turn, measure
from evodraft.bench.own import Method, Stage
from evodraft.bench.synthetic.workload import Workload
from evodraft.bench.theirs import Generate
from evodraft.config import EngineConfig
from evodraft.errors import BenchError

if TYPE_CHECKING:
    from evodraft.assemble import LoadOptions
    from evodraft.bench.contestants import Contestant
    from evodraft.bench.synthetic.pair import RandomPair


@dataclass(frozen=True, slots=True)
class PlainCost:
    """Greedy decoding token by token, one sequence."""

    contestant: str  # a runtime by name, or generate
    ms_per_token: float  # reading the prompt excluded; median over prompts
    speed_up: float  # over generate: median of the ratios of neighbouring runs
    num_identical: int  # answers that are generate's token by token; in bfloat16 near-ties part
    num_prompts: int
    note: str  # why it is no figure of a real model


def plain_costs(pair: RandomPair, runtimes: Mapping[str, LoadOptions], workload: Workload) -> list[PlainCost]:
    """`generate` first, then every runtime by name; `workload.repeats` prompts, asked of all in turn.

    Raises BenchError for what a runtime cannot do.
    """
    config = EngineConfig(max_batch=1, max_model_len=workload.num_prompt_tokens + workload.max_new_tokens)
    theirs = Generate(pair.target.model, synthetic=pair.note)
    contestants: list[Contestant] = [theirs]
    for name, load in runtimes.items():
        contestants.append(Method(name, {"drafter": None}, Stage(pair.target, load, config, synthetic=pair.note)))
    asks = workload.asks(pair.target.model.config.vocab_size, workload.repeats, temperature=0.0)
    turns = list(measure(contestants, [Batch(number, "random", (ask,)) for number, ask in enumerate(asks)], 1))
    by_name = {c.profile.name: [turn for turn in turns if turn.contestant == c.profile.name] for c in contestants}
    for contestant in contestants:
        contestant.close()
    return [_cost(name, own, by_name[theirs.profile.name], pair.note) for name, own in by_name.items()]


def peak_gb_per_s(device: torch.device) -> float | None:
    """What the memory of a CUDA device could move by its clock and width, 10^9 bytes; None where nobody tells."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return 2 * properties.memory_clock_rate * 1e3 * properties.memory_bus_width / 8 / 1e9  # kHz, double data rate, bits


def _cost(name: str, own: list[Turn], theirs: list[Turn], note: str) -> PlainCost:
    own_ms, their_ms = ([_ms_per_token(turn) for turn in turns] for turns in (own, theirs))
    same = [a.outcome.answers[0].token_ids == b.outcome.answers[0].token_ids for a, b in zip(own, theirs, strict=True)]
    ratios = [their / mine for mine, their in zip(own_ms, their_ms, strict=True)]
    return PlainCost(name, median(own_ms), median(ratios), sum(same), len(same), note)


def _ms_per_token(turn: Turn) -> float:
    if turn.error is not None or turn.outcome.decode_s is None:
        raise BenchError(f"plain decoding by {turn.contestant}: {turn.error or 'its time is not known'}")
    return 1e3 * turn.outcome.decode_s / turn.num_tokens
