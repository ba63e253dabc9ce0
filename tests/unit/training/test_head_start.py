"""The head that training begins with."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.testing.tiny import tiny_model
from evodraft.training.head_start import new_head


def test_a_head_begins_as_the_last_layer_on_the_highest_tap() -> None:
    target = tiny_model("llama")
    head = new_head(target, (0, 1, 2))
    last, hidden = target.model.layers[-1], target.config.hidden_size
    taps = torch.randn(3, 3 * hidden)
    assert torch.equal(head.fuse(taps), taps[:, -hidden:])
    attention = head.midlayer.self_attn
    assert torch.equal(attention.k_proj.weight[:, hidden:], last.self_attn.k_proj.weight)
    assert not attention.k_proj.weight[:, :hidden].any()
    assert torch.equal(head.midlayer.mlp.down_proj.weight, last.mlp.down_proj.weight)
    assert torch.equal(head.midlayer.hidden_norm.weight, last.input_layernorm.weight)
    assert torch.equal(head.norm.weight, target.model.norm.weight)
    shared = {value.data_ptr() for value in target.parameters()}
    assert not shared & {value.data_ptr() for value in head.parameters()}


def test_rotary_tables_are_the_targets() -> None:
    target = tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    assert torch.equal(new_head(target, (1,)).rotary_emb.inv_freq, target.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3", "phi3", "gpt_neox", "gpt2", "gpt_oss"])
def test_every_family_gets_a_head_of_its_width_that_depends_on_the_seed_only(family) -> None:
    target = tiny_model(family)
    before = torch.random.get_rng_state()
    one, again, other = (new_head(target, (0, 1), seed) for seed in (1, 1, 2))
    assert one.fc.weight.shape == (32, 64)
    assert one.shape.config.vocab_size == 64
    assert one.shape.target_hidden_size == 32
    first, second = one.state_dict(), again.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert family not in {"gpt2", "phi3"} or not torch.equal(
        one.midlayer.mlp.gate_proj.weight, other.midlayer.mlp.gate_proj.weight
    )
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("taps", [(), (1, 1), (2, 1), (0, 3), (-1, 1)])
def test_taps_that_are_no_ascending_layers_are_refused(taps) -> None:
    with pytest.raises(TrainingError, match=r"0 \.\. 2"):
        new_head(tiny_model("llama"), taps)


def test_published_taps_are_the_default() -> None:
    assert new_head(tiny_model("llama", num_hidden_layers=8)).shape.taps == (2, 4, 5)
