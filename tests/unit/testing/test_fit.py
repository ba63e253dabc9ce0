"""The chi-square test against known values and known failures."""

from __future__ import annotations

import pytest
import torch

from evodraft.testing import chi_square_p_value


def test_known_value() -> None:
    """Mendel's peas: chi-square 0.470, 3 degrees of freedom."""
    law = {"a": 9 / 16, "b": 3 / 16, "c": 3 / 16, "d": 1 / 16}
    counts = {"a": 315, "b": 108, "c": 101, "d": 32}
    assert chi_square_p_value(counts, law) == pytest.approx(0.9254, abs=1e-3)


def test_what_cannot_happen_did() -> None:
    assert chi_square_p_value({"a": 99, "b": 1}, {"a": 1.0, "b": 0.0}) == 0.0


def test_rare_outcomes_are_pooled() -> None:
    law = dict.fromkeys(range(100), 1e-4) | {"often": 0.99}
    assert chi_square_p_value({"often": 990, **dict.fromkeys(range(0, 100, 10), 1)}, law) > 0.5
    assert chi_square_p_value({"often": 900, 3: 100}, law) < 1e-12
    assert chi_square_p_value({"often": 3}, {"often": 0.5, "rare": 0.5}) == 1.0  # too few to say
    assert chi_square_p_value(dict.fromkeys(range(7), 1), dict.fromkeys(range(7), 1 / 7)) == 1.0


def test_p_values_of_fitting_samples_are_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    law = dict.fromkeys(range(5), 0.2)
    values = []
    for _ in range(200):
        counts = torch.bincount(torch.randint(5, (300,), generator=generator), minlength=5)
        values.append(chi_square_p_value(dict(enumerate(counts.tolist())), law))
    deciles = torch.tensor(values).mul(10).long().bincount(minlength=10)
    assert chi_square_p_value(dict(enumerate(deciles.tolist())), dict.fromkeys(range(10), 0.1)) > 1e-3
