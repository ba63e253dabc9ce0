"""Ratios, intervals, repetition and replayed time."""

from __future__ import annotations

import random

import pytest

from evodraft.bench.contestants import RoundRecord
from evodraft.bench.statistics import Costs, Pair, Run, distinct_share, median_ratio, pass_costs, speed_up


def noisy_pairs(true_ratio: float, noise: float, num_prompts: int, seed: int) -> dict[int, list[Pair]]:
    """Prompts of different speed, three repeats each, with multiplicative noise on every time."""
    draw = random.Random(seed)
    pairs = {}
    for prompt in range(num_prompts):
        base_s = draw.uniform(0.5, 2.0)
        pairs[prompt] = [
            Pair(
                Run(100, base_s / true_ratio * draw.lognormvariate(0, noise)),
                Run(100, base_s * draw.lognormvariate(0, noise)),
            )
            for _ in range(3)
        ]
    return pairs


def test_the_ratio_is_of_each_prompt_and_the_median_of_those() -> None:
    slow, fast, odd = Pair(Run(10, 1), Run(10, 1)), Pair(Run(30, 1), Run(10, 1)), Pair(Run(900, 1), Run(10, 1))
    found = speed_up({0: [slow], 1: [fast], 2: [odd]})
    assert found.value == pytest.approx(3.0)  # the mean would be 31
    assert found.low <= found.value <= found.high


def test_tokens_and_seconds_of_all_repeats_count() -> None:
    pairs = {0: [Pair(Run(10, 1.0), Run(10, 1.0)), Pair(Run(30, 1.0), Run(10, 1.0))]}
    assert median_ratio(pairs) == pytest.approx((40 / 2) / (20 / 2))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        found = speed_up(noisy_pairs(1.3, 0.05, num_prompts=12, seed=seed))
        covered += found.low <= 1.3 <= found.high
    assert covered >= 88


def test_more_prompts_give_a_narrower_interval() -> None:
    few, many = (speed_up(noisy_pairs(1.0, 0.05, number, seed=3)) for number in (6, 60))
    assert many.high - many.low < few.high - few.low


def test_it_is_the_same_interval_every_time() -> None:
    pairs = noisy_pairs(1.5, 0.1, 8, seed=0)
    assert speed_up(pairs) == speed_up(pairs)


def test_distinct_share_falls_with_repetition() -> None:
    assert distinct_share(list(range(20))) == 1.0
    assert distinct_share([1] * 20) == pytest.approx(1 / 17)
    assert distinct_share([1, 2, 3]) is None


def test_replayed_time_has_no_noise_left_where_counts_agree() -> None:
    first = [RoundRecord(2, 1, 0.1, 1.0, 1), RoundRecord(0, 0, 0.0, 0.5, 1)]
    second = [RoundRecord(2, 2, 0.3, 2.0, 1), RoundRecord(0, 0, 0.0, 0.7, 1)]
    pass_s = pass_costs([*first, *second])
    assert pass_s == pytest.approx({2: 1.5, 0: 0.6})
    costs = Costs(pass_s, [*first, *second], decode_s=5.0)
    assert costs.replay(first) == costs.replay(second) == pytest.approx(1.5 + 0.6 + 0.2 + 2 * (5.0 - 4.6) / 4)
