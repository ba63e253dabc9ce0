"""SlotCache against a model of it made of plain lists, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evodraft.errors import CapacityError
from evodraft.runtime.cache import SlotCache

HEADS, KEY_DIM, VALUE_DIM = 2, 3, 5


def states(slots, starts, width, layer=0):
    """Keys and values that tell where they belong: every element is unique to slot, position and layer."""
    position = torch.tensor(starts)[:, None] + torch.arange(width)
    value = (torch.tensor(slots)[:, None] * 1000 + position + layer / 2).float()  # [batch, width]
    keys = value[:, None, :, None].expand(-1, HEADS, -1, KEY_DIM) + torch.arange(HEADS)[:, None, None] * 1e5
    return keys.contiguous(), -keys[..., :1].expand(-1, -1, -1, VALUE_DIM).contiguous()


def append(cache, slots, widths, width=None):
    """One pass over all layers; returns what each layer showed."""
    width = max(widths) if width is None else width
    step = cache.plan(slots, widths, width)
    cache.begin(step)
    seen = [cache.write(layer, step, *states(slots, step.starts, width, layer)) for layer in range(cache.num_layers)]
    cache.commit(step)
    return seen


def assert_holds(cache, slots, seen):
    """Everything up to the length of each slot is what was written there."""
    for layer, (keys, values) in enumerate(seen):
        for row, slot in enumerate(slots):
            length = cache.length(slot)
            expected_keys, expected_values = states([slot], [0], length, layer)
            torch.testing.assert_close(keys[row, :, :length], expected_keys[0])
            torch.testing.assert_close(values[row, :, :length], expected_values[0])


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.permutations(range(4)), st.lists(st.integers(1, 7), min_size=1, max_size=4)),
        st.tuples(
            st.just("crop"), st.integers(0, 3), st.integers(0, 40), st.sampled_from([None, range(1), range(1, 3)])
        ),
        st.tuples(st.just("release"), st.integers(0, 3)),
        st.tuples(st.just("abandon"), st.integers(0, 3), st.integers(1, 7)),
    ),
    max_size=25,
)


@given(operations)
def test_behaves_like_lists_of_positions(program):
    cache = SlotCache(num_layers=3, num_slots=4, max_length=40, bucket=4)
    model = {slot: [[] for _ in range(3)] for slot in range(4)}  # slot -> layer -> positions held
    for name, *arguments in program:
        if name == "append":
            order, widths = arguments
            slots = order[: len(widths)]
            starts = {slot: min(map(len, model[slot])) for slot in slots}
            if any(starts[slot] + width > 40 for slot, width in zip(slots, widths, strict=True)):
                with pytest.raises(CapacityError):
                    append(cache, slots, widths)
                continue
            seen = append(cache, slots, widths)
            for slot, width in zip(slots, widths, strict=True):
                for layer in range(3):
                    model[slot][layer] = list(range(starts[slot] + width))
            assert_holds(cache, slots, seen)
        elif name == "crop":
            slot, length, layers = arguments
            cache.crop(slot, length, layers)
            for layer in layers or range(3):
                del model[slot][layer][length:]
        elif name == "release":
            (slot,) = arguments
            cache.release(slot)
            model[slot] = [[] for _ in range(3)]
        else:
            slot, width = arguments
            start = min(map(len, model[slot]))
            if start + width <= 40:
                cache.begin(cache.plan([slot], [width], width))
                for layer in range(3):
                    del model[slot][layer][start:]
        assert {slot: [cache.length(slot, layer) for layer in range(3)] for slot in model} == {
            slot: [len(positions) for positions in layers] for slot, layers in model.items()
        }


@pytest.mark.parametrize("slots", [[0, 1, 2], [2, 3], [3, 0, 1], [1]])
@pytest.mark.parametrize("widths", [[3, 3, 3], [1, 4, 2]])
def test_every_way_of_writing_stores_the_same(slots, widths):
    cache = SlotCache(num_layers=2, num_slots=4, max_length=64)
    for _ in range(3):
        assert_holds(cache, slots, append(cache, slots, widths[: len(slots)], width=4))


def test_a_range_of_slots_is_read_without_a_copy():
    cache = SlotCache(num_layers=1, num_slots=4, max_length=32)
    (first,) = append(cache, [1, 2], [2, 1])
    (again,) = append(cache, [1, 2], [1, 1])
    assert first.keys.data_ptr() == again.keys.data_ptr()
    (permuted,) = append(cache, [2, 1], [1, 1])
    assert permuted.keys.data_ptr() != first.keys.data_ptr()
    torch.testing.assert_close(permuted.keys[1, :, :4], again.keys[0, :, :4])


def test_columns_are_rounded_up_to_a_bucket_but_never_beyond_the_limit():
    cache = SlotCache(num_layers=1, num_slots=2, max_length=20, bucket=16)
    assert append(cache, [0], [3])[0].keys.shape[2] == 16
    assert append(cache, [0], [14])[0].keys.shape[2] == 20


def test_buffers_grow_by_doubling_and_keep_what_they_hold():
    cache = SlotCache(num_layers=2, num_slots=2, max_length=150)
    assert cache.capacity == cache.allocated_bytes == cache.bytes_per_token == 0
    capacities = []
    for _ in range(15):
        assert_holds(cache, [1, 0], append(cache, [1, 0], [10, 3]))
        capacities.append(cache.capacity)
    assert sorted(set(capacities)) == [64, 128, 150]
    assert cache.bytes_per_token == 2 * HEADS * (KEY_DIM + VALUE_DIM) * 4
    assert cache.allocated_bytes == 2 * 151 * cache.bytes_per_token


def test_padding_never_reaches_what_a_full_slot_holds():
    cache = SlotCache(num_layers=1, num_slots=2, max_length=8, bucket=4)
    append(cache, [0], [7])
    assert_holds(cache, [0, 1], append(cache, [0, 1], [1, 5], width=6))
    assert cache.length(0) == 8


def test_an_overflow_is_refused_before_anything_changes():
    cache = SlotCache(num_layers=2, num_slots=2, max_length=8)
    append(cache, [0, 1], [6, 2])
    with pytest.raises(CapacityError, match=r"slot 0 would hold 9 tokens \(6 \+ 3\).*max_length=8.*larger max_length"):
        cache.plan([1, 0], [1, 3], 3)
    assert [cache.length(slot) for slot in (0, 1)] == [6, 2]


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_does_not_exist_is_refused(slot):
    cache = SlotCache(num_layers=1, num_slots=2, max_length=8)
    for call in (lambda: cache.plan([slot], [1], 1), lambda: cache.crop(slot, 0), lambda: cache.release(slot)):
        with pytest.raises(CapacityError, match=r"slots are 0\.\.1.*num_slots"):
            call()


def test_negative_lengths_and_empty_caches_are_refused():
    with pytest.raises(CapacityError, match="cannot crop slot 0 to -1"):
        SlotCache(1, 1, 8).crop(0, -1)
    for sizes in ((0, 1, 8), (1, 0, 8), (1, 1, 0)):
        with pytest.raises(CapacityError, match="=0 is below 1"):
            SlotCache(*sizes)


@pytest.mark.parametrize(("slots", "widths"), [([0, 0], [1, 1]), ([0], [2]), ([0], [0]), ([0, 1], [1])])
def test_calls_that_only_a_bug_makes_are_asserted(slots, widths):
    with pytest.raises(AssertionError):
        SlotCache(1, 2, 8).plan(slots, widths, 1)


def test_layers_have_lengths_of_their_own_until_the_next_full_pass():
    cache = SlotCache(num_layers=3, num_slots=1, max_length=16)
    append(cache, [0], [6])
    cache.crop(0, 4, layers=range(1, 3))
    assert [cache.length(0, layer) for layer in range(3)] == [6, 4, 4]
    assert cache.length(0) == 4
    assert_holds(cache, [0], append(cache, [0], [1]))
    assert [cache.length(0, layer) for layer in range(3)] == [5, 5, 5]


def test_an_abandoned_pass_leaves_no_length_that_covers_what_it_overwrote():
    cache = SlotCache(num_layers=2, num_slots=1, max_length=16)
    append(cache, [0], [6])
    cache.crop(0, 4, layers=range(1))
    cache.begin(cache.plan([0], [1], 1))  # layer 1 will be overwritten from position 4 on
    assert [cache.length(0, layer) for layer in range(2)] == [4, 4]


def test_a_released_slot_leaves_nothing_behind():
    cache = SlotCache(num_layers=1, num_slots=2, max_length=16)
    step = cache.plan([0, 1], [5, 1], 5)
    cache.begin(step)
    poison = torch.full((2, HEADS, 5, KEY_DIM), math.nan)
    cache.write(0, step, poison, torch.full((2, HEADS, 5, VALUE_DIM), math.nan))
    cache.commit(step)
    cache.crop(0, 1)
    cache.release(0)
    (seen,) = append(cache, [0], [1])
    assert seen.keys.isfinite().all()
    assert seen.values.isfinite().all()
    cache.release(1)
    SlotCache(1, 1, 8).release(0)  # nothing allocated yet


def test_buffers_born_in_inference_mode_can_be_written_outside():
    cache = SlotCache(num_layers=1, num_slots=1, max_length=16)
    with torch.inference_mode():
        append(cache, [0], [2])
    assert_holds(cache, [0], append(cache, [0], [2]))


def test_dtype_follows_the_states():
    cache = SlotCache(num_layers=1, num_slots=1, max_length=16)
    step = cache.plan([0], [1], 1)
    cache.begin(step)
    keys = torch.ones(1, HEADS, 1, KEY_DIM, dtype=torch.bfloat16)
    assert cache.write(0, step, keys, keys).keys.dtype is torch.bfloat16
