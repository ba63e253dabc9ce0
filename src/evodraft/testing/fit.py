"""Pearson's chi-square test of counts against a law. Does not know what was counted."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TypeVar

import torch

Outcome = TypeVar("Outcome")


def chi_square_p_value(counts: Mapping[Outcome, int], law: Mapping[Outcome, float], min_expected: float = 5.0) -> float:
    """Probability of a fit at least as bad, if `counts` were drawn from `law`; 0.0 for an impossible outcome.

    Outcomes that are expected fewer than `min_expected` times are judged together.

    >>> round(chi_square_p_value({"a": 52, "b": 48}, {"a": 0.5, "b": 0.5}), 2)
    0.69
    >>> chi_square_p_value({"a": 10, "c": 1}, {"a": 1.0})
    0.0
    """
    if any(count > 0 and law.get(outcome, 0) <= 0 for outcome, count in counts.items()):
        return 0.0
    total = sum(counts.values())
    cells = [(float(mass) * total, counts.get(outcome, 0)) for outcome, mass in law.items()]
    cells.sort(key=itemgetter(0))  # never by what was observed: pools must be chosen blindly
    pooled = [(0.0, 0)]
    for expected, observed in cells:
        if pooled[-1][0] >= min_expected:
            pooled.append((0.0, 0))
        pooled[-1] = (pooled[-1][0] + expected, pooled[-1][1] + observed)
    if len(pooled) > 1 and pooled[-1][0] < min_expected:
        expected, observed = pooled.pop()
        pooled[-1] = (pooled[-1][0] + expected, pooled[-1][1] + observed)
    statistic = sum((observed - expected) ** 2 / expected for expected, observed in pooled)
    degrees = len(pooled) - 1
    if degrees == 0:
        return 1.0
    half = torch.tensor([degrees / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
