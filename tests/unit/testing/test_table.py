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


@pytest.fixture
def forked() -> TableDecoder:
    """Slot 1 holds two tokens and a tree of four nodes, slot 0 a chain of two."""
    decoder = TableDecoder(TableLM.random(4, order=3, seed=1), num_slots=2)
    decoder.forward(torch.tensor([[3, 1]]), [2], [1])
    decoder.forward(torch.tensor([[0, 2, 1, 3], [2, 2, 0, 0]]), [4, 2], [1, 0], parents=[[-1, 0, 0, -1], [-1, 0]])
    return decoder


def test_the_law_of_a_node_depends_on_its_path() -> None:
    table = TableLM.random(4, order=3, seed=1)
    decoder = TableDecoder(table, num_slots=1)
    decoder.forward(torch.tensor([[3, 1]]), [2], [0])
    logits = decoder.forward(torch.tensor([[0, 2, 1, 3]]), [4], [0], parents=[[-1, 0, 0, -1]]).logits
    assert logits is not None
    for node, path in enumerate([[0], [0, 2], [0, 1], [3]]):
        assert torch.equal(logits[0, node], table.law([3, 1, *path]).log())


def test_a_tree_must_be_selected_from_or_cropped_before_the_slot_goes_on(forked: TableDecoder) -> None:
    with pytest.raises(AssertionError, match="slot 1 holds a tree: select a path of it or crop it"):
        forked.forward(torch.tensor([[1]]), [1], [1])
    forked.forward(torch.tensor([[1]]), [1], [0])
    forked.crop(1, 5)
    with pytest.raises(AssertionError, match="slot 1 holds a tree"):
        forked.forward(torch.tensor([[1]]), [1], [1])
    forked.crop(1, 4)  # nodes 0 and 1 are a chain
    forked.forward(torch.tensor([[1]]), [1], [1])
    assert forked.length(1) == 5


def test_only_a_path_of_the_last_pass_can_be_selected(forked: TableDecoder) -> None:
    with pytest.raises(AssertionError, match=r"nodes \[0, 3\] of slot 1 have the parents \[-1, -1\]"):
        forked.select(1, 2, [0, 3])
    with pytest.raises(AssertionError, match="select from 1 on, the last pass of slot 1 began at 2"):
        forked.select(1, 1, [0])
    forked.select(1, 2, [0, 2])
    forked.forward(torch.tensor([[1]]), [1], [1])
    assert forked.length(1) == 5
    forked.release(1)
    forked.forward(torch.tensor([[1]]), [1], [1])
    assert forked.length(1) == 1
