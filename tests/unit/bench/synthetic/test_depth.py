"""The line through two depths."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evodraft.bench.synthetic import FullDepth, full_depth, random_pair
from evodraft.errors import BenchError


def test_the_line_through_two_depths() -> None:
    found = FullDepth((2, 6), (10.0, 18.0), 32)
    assert (found.layer_ms, found.rest_ms, found.extrapolated_ms) == (2.0, 6.0, 70.0)


def test_both_depths_are_measured_in_turn() -> None:
    ticks = iter([9.0, 9.0, *[2e-3, 3e-3] * 3])

    def timer(action: Callable[[], object]) -> float:
        action()
        return next(ticks)

    found = full_depth(random_pair("tiny", "float32", "cpu"), context=8, repeats=3, timer=timer)
    assert found.num_layers == (2, 4)
    assert found.ms == pytest.approx((2.0, 3.0))
    assert found.extrapolated_ms == pytest.approx(3.0)


def test_one_layer_is_refused() -> None:
    pair = random_pair("tiny", "float32", "cpu")
    with pytest.raises(BenchError, match="at least 2 layers"):
        full_depth(pair._replace(num_layers=1))
