"""The best case of a draft, against a simulation by definition."""

from __future__ import annotations

from fractions import Fraction

import pytest

from evodraft.inspection.speed import ASSUMED_ACCEPTANCE, best_case, expected_speed_up


@pytest.mark.parametrize(("acceptance", "num_draft_tokens"), [(0.0, 3), (0.5, 1), (0.8, 5), (1.0, 4)])
def test_tokens_per_round_by_counting(acceptance: float, num_draft_tokens: int) -> None:
    """At no cost the speed-up is the expected number of tokens: each accepted one, and the target's own."""
    chance = Fraction(acceptance)
    expected = Fraction(0)
    for num_accepted in range(num_draft_tokens):
        expected += chance**num_accepted * (1 - chance) * (num_accepted + 1)
    expected += chance**num_draft_tokens * (num_draft_tokens + 1)
    assert expected_speed_up(acceptance, 0.0, num_draft_tokens) == pytest.approx(float(expected))


def test_the_closed_form() -> None:
    a, c, k = 0.7, 0.1, 6
    assert expected_speed_up(a, c, k) == pytest.approx((1 - a ** (k + 1)) / ((1 - a) * (1 + c * k)))


def test_no_draft_is_plain_decoding() -> None:
    assert expected_speed_up(0.8, 0.3, 0) == 1


@pytest.mark.parametrize("cost_ratio", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_the_best_case_is_the_best(cost_ratio: float) -> None:
    best = best_case(ASSUMED_ACCEPTANCE, cost_ratio)
    assert best.num_draft_tokens >= 1
    for length in range(1, 21):
        assert expected_speed_up(ASSUMED_ACCEPTANCE, cost_ratio, length) <= best.speed_up


def test_cheap_drafts_are_worth_long_chains() -> None:
    lengths = [best_case(ASSUMED_ACCEPTANCE, cost).num_draft_tokens for cost in (0.01, 0.1, 0.3, 0.7)]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 2
