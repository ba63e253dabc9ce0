"""What this project's runtime takes for plain decoding, and for passes over a few tokens. Does not know limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import torch

from evodraft.assemble import LoadOptions, PartSpecs, build_engine
from evodraft.bench.roofline.record import PassCost
from evodraft.bench.roofline.timing import Action, Timer, median_ms
from evodraft.config import EngineConfig
from evodraft.errors import BenchError
from evodraft.params import SamplingParams
from evodraft.runtime.choose import choose_runtime
from evodraft.runtime.support import ModelFacts
from evodraft.types import Request

if TYPE_CHECKING:
    from evodraft.assemble import LoadedTarget

_CHUNK = 512  # prompt tokens per pass
_NUM_WARM_UP_STEPS = 2
_NUM_STEPS = 24  # of plain decoding that count


@dataclass(frozen=True, slots=True)
class Passes:
    """How passes are measured."""

    context: int  # tokens that the cache holds before
    repeats: int
    max_s: float  # after which repeats end, but not before three
    timer: Timer


def plain_ms(target: LoadedTarget, passes: Passes) -> float:
    """Median milliseconds of a step of plain greedy decoding through the engine, one sequence, around the context."""
    num_tokens = 1 + _NUM_WARM_UP_STEPS + _NUM_STEPS
    num_prompt = max(1, passes.context - num_tokens // 2)
    config = EngineConfig(max_batch=1, max_model_len=num_prompt + num_tokens)
    engine = build_engine(target, PartSpecs(drafter=None, controller=None), LoadOptions(), config)
    params = SamplingParams(max_new_tokens=num_tokens, temperature=0.0)
    prompt = tuple(_token_ids(engine.target.vocab_size, num_prompt).tolist())
    session = engine.submit(Request("plain", prompt, params, seed=0, speculative=False))
    while session.num_tokens < 1 + _NUM_WARM_UP_STEPS and not session.is_finished:
        engine.step()
    seconds = [passes.timer(engine.step) for _ in range(_NUM_STEPS)]
    if session.error is not None:
        raise session.error
    return 1e3 * median(seconds)


def pass_costs(model: torch.nn.Module, widths: Iterable[int], passes: Passes) -> tuple[PassCost, ...]:
    """Median milliseconds of passes over `widths` new tokens of one sequence; the widths take turns."""
    actions = scoring(model, sorted(set(widths)), passes.context)
    measured = median_ms(actions, passes.timer, passes.repeats, passes.max_s)
    return tuple(PassCost(width, ms) for width, ms in measured.items())


def scoring(model: torch.nn.Module, widths: Sequence[int], context: int) -> dict[int, Action]:
    """Width -> a pass over that many new tokens behind `context` cached ones, which it leaves as they were."""
    decoder = choose_runtime(model).decoder(num_slots=1, max_length=context + max(widths))
    token_ids = _token_ids(decoder.vocab_size, context + max(widths))
    for start, end in pairwise([*range(0, context, _CHUNK), context]):
        decoder.forward(token_ids[None, start:end], [end - start], [0], want_logits=False)

    def action(width: int) -> Action:
        def score() -> None:
            decoder.forward(token_ids[None, -width:], [width], [0])
            decoder.crop(0, context)

        return score

    return {width: action(width) for width in widths}


def check_context(model: torch.nn.Module, context: int, num_more: int) -> None:
    """Raises BenchError unless a sequence can have `context` tokens and `num_more` after them."""
    most = ModelFacts.of(model).context_length
    num_more = max(num_more, 1 + _NUM_WARM_UP_STEPS + _NUM_STEPS)
    if context < 1 or (most is not None and context + num_more > most):
        limit = "" if most is None else f" to {most - num_more}"
        raise BenchError(f"a context of {context} tokens cannot be measured with this model; take 1{limit}")


def _token_ids(vocab_size: int, number: int) -> torch.Tensor:
    """Any tokens [number]: what a pass costs does not depend on them."""
    return torch.randint(vocab_size, (number,), generator=torch.Generator().manual_seed(0))
