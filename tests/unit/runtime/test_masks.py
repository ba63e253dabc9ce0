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


def test_mixed_kinds_get_a_mask_each():
    masks = MaskBuilder((SLIDING, FULL_ATTENTION), CPU).build(ragged_step()).attention_mask
    assert set(masks) == {"sliding_attention", "full_attention"}
    assert masks["sliding_attention"].sum() < masks["full_attention"].sum()


def test_an_additive_mask_blocks_with_the_least_finite_number():
    boolean = MaskBuilder((SLIDING,), CPU).build(ragged_step()).attention_mask
    additive = MaskBuilder((SLIDING,), CPU, torch.bfloat16).build(ragged_step()).attention_mask
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
