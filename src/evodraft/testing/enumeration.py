"""Enumerate everything a random program can do: exact laws instead of samples.

`enumerate_outcomes(run)` calls `run(stream)` once for every sequence of random choices, with an `EnumeratingStream`
that takes the choices from a script and multiplies their probabilities as fractions. It refuses a noise key that was
used before (X14). Does not know what is being run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import TypeVar

import torch

from evodraft.sampling import NoiseKey

Outcome = TypeVar("Outcome", bound=Hashable)

_MAX_DENOMINATOR = 10**6  # such fractions lie further apart than float64 rounds, which undoes exp, log and sums
_TOLERANCE = 1e-13


class ReusedKeyError(AssertionError):
    """A noise key was used twice."""


@dataclass(slots=True)
class EnumeratingStream:
    """A RandomStream that follows a script of choices, and takes the first branch where the script ends.

    Args:
        script: which branch to take at each choice.
        snap: take laws for the simple fractions that they are near to, for tables; otherwise as they are (float64).
    """

    script: list[int] = field(default_factory=list)
    snap: bool = True
    branches: list[int] = field(default_factory=list)  # how many branches each choice had
    probability: Fraction = Fraction(1)
    used_keys: set[NoiseKey] = field(default_factory=set)

    def draw(self, weights: torch.Tensor, keys: Sequence[NoiseKey], ids: torch.Tensor | None = None) -> torch.Tensor:
        return torch.tensor([self._draw_row(row, key) for row, key in zip(weights, keys, strict=True)])

    def noise(self, keys: Sequence[NoiseKey], like: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        raise ReusedKeyError(f"noise that draft and target share ({keys[0]}) cannot be enumerated")

    def accept(self, p: float, q: float, key: NoiseKey) -> bool:
        self._use(key)
        ratio = min(Fraction(1), self._fraction(p) / self._fraction(q))
        return bool(self._choose([(0, 1 - ratio), (1, ratio)]))

    def _draw_row(self, weights: torch.Tensor, key: NoiseKey) -> int:
        self._use(key)
        masses = [self._fraction(weight) for weight in weights.tolist()]
        total = sum(masses)
        return self._choose([(token_id, mass / total) for token_id, mass in enumerate(masses)])

    def _choose(self, options: Sequence[tuple[int, Fraction]]) -> int:
        possible = [(outcome, mass) for outcome, mass in options if mass > 0]
        depth = len(self.branches)
        outcome, mass = possible[self.script[depth] if depth < len(self.script) else 0]
        self.branches.append(len(possible))
        self.probability *= mass
        return outcome

    def _use(self, key: NoiseKey) -> None:
        if key in self.used_keys:
            raise ReusedKeyError(f"noise key {key} was used twice")
        self.used_keys.add(key)

    def _fraction(self, value: float) -> Fraction:
        return as_fraction(value) if self.snap else Fraction(value)


@lru_cache(maxsize=65536)
def as_fraction(value: float) -> Fraction:
    """The simple fraction that a float64 `value` was meant to be.

    >>> as_fraction(1 - 2 / 3)
    Fraction(1, 3)
    """
    exact = Fraction(value)
    simple = exact.limit_denominator(_MAX_DENOMINATOR)
    if abs(simple - exact) > _TOLERANCE:
        raise AssertionError(f"{value!r} is no fraction with a denominator up to {_MAX_DENOMINATOR}; use snap=False")
    return simple


def enumerate_outcomes(
    run: Callable[[EnumeratingStream], Outcome], *, snap: bool = True, max_runs: int = 200_000
) -> dict[Outcome, Fraction]:
    """The exact law of what `run` returns.

    >>> from evodraft.sampling import RequestKeys
    >>> def coin(stream):
    ...     return int(stream.draw(torch.tensor([[0.25, 0.75]]), [RequestKeys(0).next("draft")])[0])
    >>> enumerate_outcomes(coin)
    {0: Fraction(1, 4), 1: Fraction(3, 4)}
    """
    law: dict[Outcome, Fraction] = defaultdict(Fraction)
    script: list[int] | None = []
    num_runs = 0
    while script is not None:
        stream = EnumeratingStream(script, snap)
        outcome = run(stream)
        law[outcome] += stream.probability
        script = _next_script(script, stream.branches)
        num_runs += 1
        assert num_runs <= max_runs, f"more than {max_runs} runs; shorten the output or shrink the vocabulary"
    return dict(law)


def _next_script(script: list[int], branches: list[int]) -> list[int] | None:
    """The script after this one in depth-first order; None if it was the last."""
    taken = script + [0] * (len(branches) - len(script))
    while taken and taken[-1] + 1 >= branches[len(taken) - 1]:
        taken.pop()
    if not taken:
        return None
    taken[-1] += 1
    return taken
