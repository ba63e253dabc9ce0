"""TableLM against itself, and its decoder against the protocol."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from evodraft.errors import CapacityError
from evodraft.testing import TableDecoder, TableLM, check_decoder


@pytest.mark.parametrize("num_zeros", [0, 1, 2])
def test_random_laws_are_dyadic(num_zeros) -> None:
    table = TableLM.random(4, order=2, seed=3, num_zeros=num_zeros)
    assert table.laws.shape == (16, 4)
    assert torch.equal(table.laws * 8, (table.laws * 8).round())
    assert torch.equal(table.laws.sum(-1), torch.ones(16, dtype=torch.float64))
    assert ((table.laws == 0).sum(-1) >= num_zeros).all()
    assert not torch.equal(table.laws, TableLM.random(4, order=2, seed=4, num_zeros=num_zeros).laws)


def test_only_the_last_tokens_matter_and_missing_ones_are_zero() -> None:
    table = TableLM.random(3, order=2, seed=1)
    assert torch.equal(table.law([1, 2, 0, 1]), table.law([0, 1]))
    assert torch.equal(table.law([2]), table.law([0, 2]))


def test_joint_is_the_product_of_the_steps() -> None:
    table = TableLM.random(3, order=1, seed=1)
    joint = table.joint([2], 2)
    assert sum(joint.values()) == 1
    for (first, second), mass in joint.items():
        assert mass == Fraction(table.law([2])[first].item()) * Fraction(table.law([first])[second].item())


def test_the_decoder_keeps_the_protocol() -> None:
    table = TableLM.random(4, order=3, seed=1)
    check_decoder(lambda num_slots, max_length: TableDecoder(table, num_slots, max_length), tolerance=0.0)


def test_passes_are_counted_and_overflow_is_refused_before() -> None:
    decoder = TableDecoder(TableLM.random(), num_slots=1, max_length=2)
    decoder.forward(torch.tensor([[1, 1]]), [2], [0])
    with pytest.raises(CapacityError, match="slot 0 would hold more than 2 tokens; release it first"):
        decoder.forward(torch.tensor([[1]]), [1], [0])
    assert decoder.num_passes == 1
    assert decoder.length(0) == 2
