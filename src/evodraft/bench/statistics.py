"""Ratios of speeds with bootstrap intervals, repetition of outputs, and replayed time. Knows numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from evodraft.bench.contestants import RoundRecord
from evodraft.bench.result import Interval

_NUM_RESAMPLES = 4000
_LEVELS = (2.5, 97.5)  # percentiles: an interval of 95 %


class Run(NamedTuple):
    """One answer's tokens and seconds."""

    num_tokens: int
    seconds: float


class Pair(NamedTuple):
    """The same prompt in the same repeat, once by the method and once by the baseline, measured in turn."""

    method: Run
    baseline: Run


def speed_up(pairs: Mapping[int, Sequence[Pair]], seed: int = 0) -> Interval:
    """The median over prompts of (tokens/s of the method) / (tokens/s of the baseline), with an interval of 95 %.

    A prompt's speeds are its tokens over its seconds in all repeats. The bootstrap draws prompts, and repeats within
    each prompt, with replacement; method and baseline keep each other's company, so that drift of the machine cancels.

    >>> speed_up({0: [Pair(Run(10, 1.0), Run(10, 2.0))] * 3})
    Interval(value=2.0, low=2.0, high=2.0)
    """
    figures = _figures(pairs)
    num_prompts, num_repeats, _ = figures.shape
    generator = np.random.default_rng(seed)
    prompts = generator.integers(num_prompts, size=(_NUM_RESAMPLES, num_prompts, 1))
    repeats = generator.integers(num_repeats, size=(_NUM_RESAMPLES, num_prompts, num_repeats))
    medians = np.median(_ratios(figures[prompts, repeats]), axis=-1)
    low, high = np.percentile(medians, _LEVELS)
    return Interval(median_ratio(pairs), float(low), float(high))


def median_ratio(pairs: Mapping[int, Sequence[Pair]]) -> float:
    """The median of `speed_up` without its interval."""
    return float(np.median(_ratios(_figures(pairs))))


def distinct_share(token_ids: Sequence[int], size: int = 4) -> float | None:
    """Different n-grams / n-grams of one output; None if it is too short to have any.

    >>> distinct_share([1, 2, 3, 4, 1, 2, 3, 4]), distinct_share([1, 2])
    (0.8, None)
    """
    grams = [tuple(token_ids[start : start + size]) for start in range(len(token_ids) - size + 1)]
    return len(set(grams)) / len(grams) if grams else None


def pass_costs(rounds: Sequence[RoundRecord]) -> dict[int, float]:
    """Mean seconds of a target pass by the number of draft tokens in it, over the rounds of all contestants.

    >>> pass_costs([RoundRecord(0, 0, 0.0, 1.0, 1), RoundRecord(0, 0, 0.0, 3.0, 1)])
    {0: 2.0}
    """
    return _means([(item.num_drafted, item.score_s) for item in rounds])


class Costs:
    """Mean seconds of what rounds are made of, at batch size 1.

    Args:
        pass_s: of a target pass by its draft tokens; the same for all contestants.
        rounds: of one contestant.
        decode_s: seconds in which they ran; what draft and target did not take is the overhead of each.
    """

    def __init__(self, pass_s: Mapping[int, float], rounds: Sequence[RoundRecord], decode_s: float) -> None:
        self._pass_s = pass_s
        self._draft_s = _means([(item.num_drafted, item.draft_s) for item in rounds])
        known_s = sum(item.draft_s + item.score_s for item in rounds)
        self._overhead_s = (decode_s - known_s) / max(1, len(rounds))

    def replay(self, rounds: Sequence[RoundRecord]) -> float:
        """Seconds that `rounds` would take if every part of them cost its mean."""
        widths = [item.num_drafted for item in rounds]
        return sum(self._draft_s[width] + self._pass_s[width] + self._overhead_s for width in widths)


def _figures(pairs: Mapping[int, Sequence[Pair]]) -> np.ndarray:
    """[prompts, repeats, 4]: tokens and seconds of the method, then of the baseline."""
    return np.asarray([[(*pair.method, *pair.baseline) for pair in repeats] for repeats in pairs.values()])


def _ratios(figures: np.ndarray) -> np.ndarray:
    """[..., prompts, repeats, 4] -> [..., prompts]."""
    tokens, seconds, baseline_tokens, baseline_seconds = np.moveaxis(figures.sum(axis=-2), -1, 0)
    ratios: np.ndarray = (tokens / seconds) / (baseline_tokens / baseline_seconds)
    return ratios


def _means(pairs: Sequence[tuple[int, float]]) -> dict[int, float]:
    return {width: fmean(seconds for key, seconds in pairs if key == width) for width in {key for key, _ in pairs}}
