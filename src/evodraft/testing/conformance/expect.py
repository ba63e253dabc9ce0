"""How a conformance check says no. Does not know what is being checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from fractions import Fraction

Outcome = TypeVar("Outcome")
_NUM_SHOWN = 3


def expect(condition: bool, message: str) -> None:
    """Raises AssertionError with `message` unless `condition` holds, with `python -O` too."""
    if not condition:
        raise AssertionError(message)


def expect_close(actual: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str) -> None:
    """Raises AssertionError unless both tensors have one shape and differ by at most `tolerance`; -inf equals -inf."""
    expect(actual.shape == wanted.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(wanted.shape)}")
    is_equal = (actual == wanted) | ((actual - wanted).abs() <= tolerance)
    if not bool(is_equal.all()):
        difference = (actual - wanted)[~is_equal].abs().max().item()
        raise AssertionError(f"{what}: values differ by up to {difference:g}, allowed is {tolerance:g}")


def expect_same_law(actual: Mapping[Outcome, Fraction], wanted: Mapping[Outcome, Fraction], what: str) -> None:
    """Raises AssertionError unless both laws give every output the same probability."""
    outputs = list(dict.fromkeys([*wanted, *actual]))
    wrong = [output for output in outputs if actual.get(output, 0) != wanted.get(output, 0)]
    shown = _listed([f"{output}: {actual.get(output, 0)} instead of {wanted.get(output, 0)}" for output in wrong])
    expect(not wrong, f"{what}: {len(wrong)} of {len(outputs)} outputs have a wrong probability ({shown})")


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:_NUM_SHOWN]) + (", ..." if len(items) > _NUM_SHOWN else "")
