"""The enumerating stream: every branch once, with its probability."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evodraft.sampling import RequestKeys
from evodraft.testing import EnumeratingStream, ReusedKeyError, as_fraction, enumerate_outcomes


@given(st.fractions(0, 1, max_denominator=10**4), st.fractions(0, 1, max_denominator=10))
def test_fractions_survive_floating_point(one, other) -> None:
    assert as_fraction(float(one)) == one
    assert as_fraction(float(one) * float(other)) == one * other


def test_what_is_no_simple_fraction_is_refused() -> None:
    with pytest.raises(AssertionError, match="no fraction with a denominator up to .*; use snap=False"):
        as_fraction(math.pi / 4)


def test_two_dice() -> None:
    def run(stream: EnumeratingStream) -> int:
        keys = RequestKeys(0)
        rows = torch.ones(2, 6, dtype=torch.float64)
        return int(stream.draw(rows, [keys.next("draft"), keys.next("draft")]).sum()) + 2

    law = enumerate_outcomes(run)
    assert law == {total: Fraction(6 - abs(total - 7), 36) for total in range(2, 13)}


def test_programs_of_different_lengths() -> None:
    def run(stream: EnumeratingStream) -> str:
        keys = RequestKeys(0)
        flips = ""
        while len(flips) < 3 and not flips.endswith("1"):
            flips += str(int(stream.accept(0.25, 0.75, keys.next("accept"))))
        return flips

    third = Fraction(1, 3)
    assert enumerate_outcomes(run) == {
        "1": third,
        "01": third * (1 - third),
        "001": third * (1 - third) ** 2,
        "000": (1 - third) ** 3,
    }


def test_impossible_branches_are_not_taken() -> None:
    def run(stream: EnumeratingStream) -> tuple[int, bool]:
        keys = RequestKeys(0)
        token_id = int(stream.draw(torch.tensor([[0.0, 1.0, 0.0]]), [keys.next("draft")])[0])
        return token_id, stream.accept(0.5, 0.25, keys.next("accept"))

    assert enumerate_outcomes(run) == {(1, True): 1}


def test_float_laws_are_taken_as_they_are() -> None:
    weights = torch.tensor([[math.pi, math.e]], dtype=torch.float64)
    law = enumerate_outcomes(lambda stream: int(stream.draw(weights, [RequestKeys(0).next("draft")])[0]), snap=False)
    assert float(law[0]) == pytest.approx(math.pi / (math.pi + math.e), abs=1e-15)
    assert sum(law.values()) == 1


def test_a_key_is_good_for_one_choice() -> None:
    stream, key = EnumeratingStream(), RequestKeys(0).next("draft")
    stream.accept(0.5, 1.0, key)
    with pytest.raises(ReusedKeyError, match="was used twice"):
        stream.draw(torch.ones(1, 2), [key])


def test_endless_programs_are_given_up() -> None:
    keys = RequestKeys(0)
    with pytest.raises(AssertionError, match="more than 10 runs; shorten the output"):
        enumerate_outcomes(
            lambda stream: stream.draw(torch.ones(4, 2), [keys.next("draft") for _ in range(4)]).sum().item(),
            max_runs=10,
        )


def test_shared_noise_is_refused() -> None:
    with pytest.raises(ReusedKeyError, match="share .* cannot be enumerated"):
        EnumeratingStream().noise([RequestKeys(1).coupled(3)], torch.ones(1, 2))
