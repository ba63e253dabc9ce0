"""Masks against the definition, position by position."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.cache import SlotCache
from evodraft.runtime.masks import FULL_ATTENTION, LayerKind, MaskBuilder, layer_kinds

CPU = torch.device("cpu")
SLIDING = LayerKind("sliding_attention", window=3)
CHUNKED = LayerKind("chunked_attention", chunk=4)


def ragged_step():
    """Row 0 appends 2 tokens to 9, row 1 appends 4 to 0."""
    cache = SlotCache(num_layers=1, num_slots=3, max_length=32, bucket=4)
    first = cache.plan([2], [9], 9)
    cache.begin(first)
    cache.commit(first)
    return cache.plan([2, 0], [2, 4], 4)


def sees(kind, query, key):
    """The definition."""
    in_window = kind.window is None or key > query - kind.window
    in_chunk = kind.chunk is None or key // kind.chunk == query // kind.chunk
    return key <= query and in_window and in_chunk


@pytest.mark.parametrize("kind", [FULL_ATTENTION, SLIDING, CHUNKED])
def test_a_mask_is_what_the_definition_says(kind):
    step = ragged_step()
    positions, mask = MaskBuilder((kind,), CPU).build(step)
    assert positions.tolist() == [[9, 10, 10, 10], [0, 1, 2, 3]]
    assert mask.shape == (2, 1, 4, 12)
    assert step.columns == 12
    for row in range(2):
        for column in range(4):
            query = positions[row, column].item()
            assert mask[row, 0, column].tolist() == [sees(kind, query, key) for key in range(12)]
    assert mask.any(dim=-1).all(), "a row that sees nothing makes NaN"


TREES = ((-1, 0, 0, 2, -1, 3), (-1, 0), (-1, 0, 1, 2))
DEPTHS = ((0, 1, 1, 2, 0, 3), (0, 1), (0, 1, 2, 3))


def tree_step():
    """A tree after 9 tokens, a chain after 5 and one after none, in slots that are no range."""
    cache = SlotCache(num_layers=1, num_slots=4, max_length=32, bucket=4)
    first = cache.plan([3, 1], [9, 5], 9)
    cache.begin(first)
    cache.commit(first)
    return cache.plan([3, 1, 2], [6, 2, 4], 6, parents=TREES)


def node_sees(kind, row, node, column, start):
    """The definition: what was held and the way up, as far as a plain text of that path would see."""
    way_up = {node}
    while (node := TREES[row][node]) >= 0:
        way_up.add(node)
    if column >= start and column - start not in way_up:
        return False
    key = column if column < start else start + DEPTHS[row][column - start]
    return sees(kind, start + DEPTHS[row][max(way_up)], key)


@pytest.mark.parametrize("kind", [FULL_ATTENTION, SLIDING, CHUNKED])
def test_a_node_sees_what_its_path_would_see_as_plain_text(kind):
    step = tree_step()
    positions, mask = MaskBuilder((kind,), CPU).build(step)
    assert positions.tolist() == [[9, 10, 10, 11, 9, 12], [5, 6, 6, 6, 6, 6], [0, 1, 2, 3, 3, 3]]
    assert mask.shape == (3, 1, 6, step.columns)
    for row, (start, width) in enumerate(zip(step.starts, step.widths, strict=True)):
        for query in range(6):
            node = min(query, width - 1)  # padding sees what the last node sees
            expected = [node_sees(kind, row, node, column, start) for column in range(step.columns)]
            assert mask[row, 0, query].tolist() == expected, (row, query)


def test_a_tree_of_chains_has_the_mask_of_chains():
    cache = SlotCache(num_layers=1, num_slots=2, max_length=32, bucket=4)
    forked = cache.plan([0, 1], [3, 3], 3, parents=[[-1, 0, 1], [-1, 0, 0]])
    chains = MaskBuilder((SLIDING,), CPU).build(cache.plan([0, 1], [3, 3], 3))
    built = MaskBuilder((SLIDING,), CPU).build(forked)
    assert torch.equal(built.attention_mask[0], chains.attention_mask[0])
    assert torch.equal(built.position_ids[0], chains.position_ids[0])
    assert not torch.equal(built.attention_mask[1], chains.attention_mask[1])


def test_mixed_kinds_get_a_mask_each():
    masks = MaskBuilder((SLIDING, FULL_ATTENTION), CPU).build(ragged_step()).attention_mask
    assert set(masks) == {"sliding_attention", "full_attention"}
    assert masks["sliding_attention"].sum() < masks["full_attention"].sum()


@pytest.mark.parametrize("make_step", [ragged_step, tree_step])
def test_an_additive_mask_blocks_with_the_least_finite_number(make_step):
    boolean = MaskBuilder((SLIDING,), CPU).build(make_step()).attention_mask
    additive = MaskBuilder((SLIDING,), CPU, torch.bfloat16).build(make_step()).attention_mask
    assert additive.dtype is torch.bfloat16
    assert torch.equal(additive == 0, boolean)
    assert (additive[~boolean] == torch.finfo(torch.bfloat16).min).all()


def config(**fields):
    return SimpleNamespace(model_type="some", **fields)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, (FULL_ATTENTION,)),
        ({"sliding_window": None}, (FULL_ATTENTION,)),
        ({"sliding_window": 3}, (SLIDING,)),
        ({"sliding_window": 3, "layer_types": ["full_attention"] * 2}, (FULL_ATTENTION,)),
        ({"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"] * 2}, (SLIDING, FULL_ATTENTION)),
        ({"attention_chunk_size": 4, "layer_types": ["chunked_attention"]}, (CHUNKED,)),
        ({"attention_chunk_size": 4}, (FULL_ATTENTION,)),
    ],
)
def test_kinds_come_from_the_config(fields, kinds):
    assert layer_kinds(config(**fields)) == kinds


def test_layers_with_a_state_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"'some' has layers of kind conv, linear_attention; .* only"):
        layer_kinds(config(layer_types=["full_attention", "linear_attention", "conv"]))
