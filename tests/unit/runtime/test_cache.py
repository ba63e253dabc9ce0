"""SlotCache against a model of it made of plain lists, and its limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evodraft.errors import CapacityError, ConfigError
from evodraft.runtime.cache import BufferShape, SlotCache

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


NUM_SLOTS, NUM_LAYERS, MAX_LENGTH = 4, 3, 150
slot_numbers = st.integers(0, NUM_SLOTS - 1)
some_layers = st.sampled_from([None, range(1), range(1, 3), range(3)])
rows = st.lists(
    st.tuples(slot_numbers, st.integers(1, 70)), min_size=1, max_size=NUM_SLOTS, unique_by=lambda row: row[0]
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), rows, st.integers(0, 2), some_layers, st.booleans()),
        st.tuples(st.just("tree"), rows, st.randoms(use_true_random=False)),
        st.tuples(st.just("crop"), slot_numbers, st.integers(0, MAX_LENGTH), some_layers),
        st.tuples(st.just("release"), slot_numbers),
        st.tuples(st.just("scrub"), slot_numbers),
    ),
    max_size=20,
)


class Lists:
    """What SlotCache must hold, as lists of tokens: slot -> layer -> tokens; and the cache, driven in step with it."""

    def __init__(self):
        self.cache = SlotCache(NUM_LAYERS, NUM_SLOTS, MAX_LENGTH, bucket=4)
        self.held = {slot: [[] for _ in range(NUM_LAYERS)] for slot in range(NUM_SLOTS)}
        self.fresh = itertools.count(1)

    def start(self, slot, layers):
        return min(len(self.held[slot][layer]) for layer in layers)

    def append(self, rows, padding=0, layers=None, abandon=False, parents=None):
        slots, widths = zip(*rows, strict=True)
        written = range(NUM_LAYERS) if layers is None else layers
        if any(self.start(slot, written) + width > MAX_LENGTH for slot, width in rows):
            with pytest.raises(CapacityError):
                self.cache.plan(slots, widths, max(widths), layers=layers)
            return False
        step = self.cache.plan(slots, widths, max(widths) + padding, layers=layers, parents=parents)
        self.cache.begin(step)
        tokens = torch.tensor([[next(self.fresh) for _ in range(step.width)] for _ in rows])
        for slot, start, width, new in zip(slots, step.starts, widths, tokens.tolist(), strict=True):
            for layer in written:
                self.held[slot][layer][start:] = [] if abandon else new[:width]
        for layer in written:
            self.compare(layer, step, self.cache.write(layer, step, *stored(tokens, layer)))
        if not abandon:
            self.cache.commit(step)
        return True

    def compare(self, layer, step, seen):
        assert seen.keys.shape[:3] == seen.values.shape[:3] == (len(step.slots), HEADS, step.columns)
        for row, slot in enumerate(step.slots):
            expected = torch.tensor([self.held[slot][layer]])
            length = expected.shape[1]
            keys, values = stored(expected, layer)
            assert torch.equal(seen.keys[row, :, :length], keys[0])
            assert torch.equal(seen.values[row, :, :length], values[0])
            assert seen.values.isfinite().all()

    def append_tree(self, rows, random):
        """A pass of random trees, then one random path of each."""
        parents = [[random.randint(-1, node - 1) for node in range(width)] for _, width in rows]
        starts = [self.start(slot, range(NUM_LAYERS)) for slot, _ in rows]
        if not self.append(rows, parents=parents):
            return
        for (slot, width), tree, start in zip(rows, parents, starts, strict=True):
            path, node = [], random.randint(-1, width - 1)
            while node >= 0:
                path.insert(0, node)
                node = tree[node]
            self.cache.select(slot, start, path)
            for tokens in self.held[slot]:
                tokens[start:] = [tokens[start + node] for node in path]

    def crop(self, slot, length, layers):
        self.cache.crop(slot, length, layers)
        for layer in layers or range(NUM_LAYERS):
            del self.held[slot][layer][length:]

    def release(self, slot):
        self.cache.release(slot)
        self.held[slot] = [[] for _ in range(NUM_LAYERS)]


def stored(tokens, layer):  # [batch, width] -> keys and values that tell token, head and layer
    value = tokens[:, None, :, None] * 10.0 + layer + torch.arange(HEADS)[:, None, None] * 1e5
    return value.expand(-1, -1, -1, KEY_DIM).contiguous(), -value.expand(-1, -1, -1, VALUE_DIM).contiguous()


@given(operations)
def test_behaves_like_lists_of_tokens(program):
    lists = Lists()
    run = {
        "append": lists.append,
        "tree": lists.append_tree,
        "crop": lists.crop,
        "release": lists.release,
        "scrub": lists.cache.scrub,
    }
    for name, *arguments in program:
        run[name](*arguments)
        assert {slot: [lists.cache.length(slot, layer) for layer in range(NUM_LAYERS)] for slot in lists.held} == {
            slot: [len(tokens) for tokens in layers] for slot, layers in lists.held.items()
        }
    for slot in lists.held:  # one more token shows everything that is left
        lists.append([(slot, 1)])


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


def numbers_of(cache):
    """Numbers that the buffers hold for each head and column of keys and values."""
    return cache.allocated_bytes // (4 * HEADS * (KEY_DIM + VALUE_DIM))


def test_rows_follow_the_highest_slot_in_use_and_columns_the_longest():
    cache = SlotCache(num_layers=1, num_slots=8, max_length=4096)
    append(cache, [0], [10])
    assert numbers_of(cache) == 1 * 65
    append(cache, [3, 0], [7, 1])
    assert numbers_of(cache) == 4 * 65
    append(cache, [0], [300])
    assert numbers_of(cache) == 4 * 513
    cache.release(3)
    append(cache, [0], [10])
    assert numbers_of(cache) == 4 * 513, "nothing is given back before something must grow"
    assert_holds(cache, [0], append(cache, [0], [300]))
    assert numbers_of(cache) == 1 * 1025
    append(cache, [2], [1])
    assert numbers_of(cache) == 3 * 1025, "a short newcomer does not cut the others short"
    assert_holds(cache, [0], append(cache, [0], [1]))
    cache.release(0)
    cache.release(2)
    seen = append(cache, [7, 1], [100, 20])
    assert numbers_of(cache) == 8 * 129
    assert_holds(cache, [7, 1], seen)


def test_few_long_sequences_or_many_short_ones_fit_one_budget():
    cache = SlotCache(num_layers=2, num_slots=4, max_length=400, budget_tokens=400)
    append(cache, [0], [390])
    assert numbers_of(cache) == 2 * 401, "512 would exceed max_length"
    cache.release(0)
    assert_holds(cache, [0, 1, 2, 3], append(cache, [0, 1, 2, 3], [70, 2, 3, 80]))
    assert numbers_of(cache) == 2 * 4 * 101, "128 columns would exceed the budget"
    append(cache, [0, 1, 2, 3], [40, 1, 1, 1])
    assert numbers_of(cache) == 2 * 4 * 113, "what is needed is taken, budget or not: 110 in buckets of 16"


def test_scrubbing_a_slot_that_has_no_row_any_more():
    cache = SlotCache(num_layers=1, num_slots=2, max_length=256)
    append(cache, [1], [5])
    cache.crop(1, 0)
    append(cache, [0], [100])
    assert numbers_of(cache) == 1 * 129
    cache.scrub(1)
    assert_holds(cache, [1, 0], append(cache, [1, 0], [2, 1]))


def test_a_pass_over_some_layers_leaves_the_others():
    cache = SlotCache(num_layers=3, num_slots=1, max_length=32)
    append(cache, [0], [6])
    cache.crop(0, 4, layers=range(1, 3))
    step = cache.plan([0], [3], 3, layers=range(1, 3))
    assert (step.starts, step.layers) == ((4,), range(1, 3))
    cache.begin(step)
    cache.commit(step)
    assert [cache.length(0, layer) for layer in range(3)] == [6, 7, 7]
    assert cache.plan([0], [1], 1).starts == (6,)
    assert cache.plan([0], [1], 1, layers=range(2, 3)).starts == (7,)


def test_buffers_are_whole_and_stay_while_they_suffice():
    cache = SlotCache(num_layers=1, num_slots=4, max_length=256)
    like = BufferShape(HEADS, KEY_DIM, VALUE_DIM, torch.float64, torch.device("cpu"))
    first = cache.buffers(0, cache.plan([2], [5], 5), like)
    assert first.keys.shape == (3, HEADS, 65, KEY_DIM)
    assert first.values.shape == (3, HEADS, 65, VALUE_DIM)
    assert first.keys.dtype is first.values.dtype is torch.float64
    assert cache.buffers(0, cache.plan([1], [64], 64), like) is first
    assert cache.buffers(0, cache.plan([1], [65], 65), like).keys.shape == (2, HEADS, 129, KEY_DIM)


def test_selecting_moves_a_path_together_in_every_layer():
    cache = SlotCache(num_layers=2, num_slots=2, max_length=32)
    append(cache, [1], [4])
    append(cache, [1], [6])
    cache.select(1, 4, [0, 2, 5])
    assert [cache.length(1, layer) for layer in range(2)] == [7, 7]
    step = cache.plan([1], [1], 1)
    cache.begin(step)
    for layer in range(2):
        keys, values = cache.write(layer, step, *states([1], [7], 1, layer))
        wanted_keys, wanted_values = states([1], [0], 10, layer)
        columns = [0, 1, 2, 3, 4, 6, 9]
        assert torch.equal(keys[0, :, :7], wanted_keys[0, :, columns])
        assert torch.equal(values[0, :, :7], wanted_values[0, :, columns])


def test_selecting_touches_only_layers_that_reach_the_tree():
    cache = SlotCache(num_layers=3, num_slots=1, max_length=32)
    append(cache, [0], [6])
    cache.crop(0, 2, layers=range(1))
    cache.select(0, 2, [1, 3])
    assert [cache.length(0, layer) for layer in range(3)] == [2, 4, 4]
    cache.select(0, 9, [])
    assert [cache.length(0, layer) for layer in range(3)] == [2, 4, 4]


@pytest.mark.parametrize("nodes", [[1, 0], [4], [0, 0]])
def test_a_path_that_was_not_written_is_refused_before_anything_changes(nodes):
    cache = SlotCache(num_layers=1, num_slots=1, max_length=32)
    append(cache, [0], [6])
    with pytest.raises(ConfigError, match="within the 4 nodes"):
        cache.select(0, 2, nodes)
    assert cache.length(0) == 6


def test_parents_of_chains_are_no_tree():
    cache = SlotCache(num_layers=1, num_slots=2, max_length=32)
    assert cache.plan([0, 1], [2, 1], 2, parents=[[-1, 0], [-1]]).parents is None
    assert cache.plan([0, 1], [2, 1], 2, parents=[[-1, -1], [-1]]).parents == ((-1, -1), (-1,))
    with pytest.raises(ConfigError, match="node 1 of a tree names parent 1"):
        cache.plan([0], [2], 2, parents=[[-1, 1]])


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
