"""Tables equal what transformers' rotary modules compute, bit for bit, and a handed out row never changes."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.rotary import Rotary
from evodraft.testing.tiny import tiny_model

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
}


@pytest.mark.parametrize("rope", ROPES)
def test_tables_are_those_of_the_model(rope):
    module = tiny_model("llama", rope_parameters=ROPES[rope]).model.rotary_emb
    rotary = Rotary(module.inv_freq, module.attention_scaling)
    cos, sin = module(torch.zeros(1, 1, 8), torch.arange(300)[None])
    assert rotary.rotary_dim == 8
    tables = rotary.tables(300)
    assert torch.equal(tables.cos[:300], cos[0, :, :4])
    assert torch.equal(tables.sin[:300], sin[0, :, :4])


def test_tables_grow_by_doubling_and_keep_their_rows():
    rotary = Rotary(torch.tensor([1.0, 0.3]), scaling=1.0)
    short = rotary.tables(3)
    assert short.cos.shape == short.sin.shape == (256, 2)
    assert rotary.tables(256) is short
    longer = rotary.tables(257)
    assert longer.cos.shape[0] == 512
    assert torch.equal(longer.sin[:256], short.sin)
    assert rotary.tables(5000).cos.shape[0] == 5000


def test_later_changes_of_the_model_do_not_reach_the_tables():
    frequencies = torch.tensor([1.0, 0.3])
    rotary = Rotary(frequencies, scaling=1.0)
    expected = rotary.tables(10).cos.clone()
    frequencies.zero_()
    assert torch.equal(rotary.tables(1000).cos[:256], expected)


def test_tables_born_in_inference_mode_are_ordinary_tensors():
    rotary = Rotary(torch.tensor([1.0]), scaling=1.0)
    with torch.inference_mode():
        tables = rotary.tables(4)
    assert not tables.cos.is_inference()
