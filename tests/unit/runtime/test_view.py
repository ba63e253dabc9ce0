"""The transformers cache that holds nothing itself."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.cache import SlotCache
from evodraft.runtime.view import SlotView


@pytest.fixture
def view():
    return SlotView(SlotCache(num_layers=2, num_slots=2, max_length=32))


def test_a_pass_writes_through_and_advances_the_lengths(view):
    step = view.slot_cache.plan([0, 1], [3, 1], 3)
    with view.during(step):
        assert view.get_seq_length() == 0
        assert view.get_mask_sizes(3, 0) == (16, 0)
        keys, values = view.update(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4), 1)
        assert keys.shape == values.shape == (2, 1, 16, 4)
        assert view.slot_cache.length(0) == 0
    assert [view.slot_cache.length(slot) for slot in (0, 1)] == [3, 1]
    with view.during(view.slot_cache.plan([1, 0], [1, 1], 1)):
        assert view.get_seq_length() == 3
    assert view.get_max_length() == 32
    assert len(view) == 2


def test_an_exception_leaves_the_lengths(view):
    with pytest.raises(KeyError), view.during(view.slot_cache.plan([0], [3], 3)):
        raise KeyError
    assert view.slot_cache.length(0) == 0


def test_it_is_of_no_use_outside_of_a_pass(view):
    view.layers[0].lazy_initialization(torch.ones(1), torch.ones(1))
    with pytest.raises(AssertionError, match="outside of a pass"):
        view.update(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), 0)
