"""The training forward pass against the library's, and growth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.training.llama import build_model, exit_states, grow_depth, hidden_states


def random_ids(batch, sequence):
    return torch.randint(0, 300, (batch, sequence), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("sequence", [1, 2, 37])
def test_the_fast_forward_pass_equals_the_library(model, sequence):
    token_ids = random_ids(3, sequence)
    with torch.no_grad():
        torch.testing.assert_close(
            hidden_states(model, token_ids), model.model(input_ids=token_ids).last_hidden_state, rtol=1e-5, atol=1e-5
        )


def test_gradients_equal_the_library(model):
    token_ids = random_ids(2, 11)
    hidden_states(model, token_ids).square().sum().backward()
    fast = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    model.model(input_ids=token_ids).last_hidden_state.square().sum().backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(fast[name], value.grad, rtol=1e-3, atol=1e-4)


def test_models_depend_on_the_seed_only(shape, ids):
    first, again, other = (build_model(shape, 300, ids, seed).model.norm.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    before = torch.random.get_rng_state()
    weights = [build_model(shape, 300, ids, seed).model.embed_tokens.weight for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert other.shape == first.shape


def test_embeddings_are_tied_and_stop_ids_are_set(model, ids):
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.eos_token_id == [ids.separator, ids.end]


def test_growth_repeats_the_layers_in_order(model, shape, ids):
    deeper = grow_depth(model, 4, ids, shape)
    assert deeper.config.num_hidden_layers == 4
    for index in range(4):
        source = model.model.layers[index % 2].state_dict()
        for name, value in deeper.model.layers[index].state_dict().items():
            assert torch.equal(value, source[name])
    assert torch.equal(deeper.lm_head.weight, model.lm_head.weight)
    assert deeper.lm_head.weight is deeper.model.embed_tokens.weight
    assert deeper.lm_head.weight is not model.lm_head.weight


def test_growth_to_a_fraction_is_refused(model, shape, ids):
    with pytest.raises(TrainingError, match="multiple of 2"):
        grow_depth(model, 5, ids, replace(shape, num_layers=5))


def test_an_exit_is_what_a_model_cut_after_that_layer_says(model):
    token_ids = random_ids(2, 9)
    with torch.no_grad():
        first, last = exit_states(model, token_ids, (1, 2))
        torch.testing.assert_close(last, hidden_states(model, token_ids))
        model.model.layers = model.model.layers[:1]
        torch.testing.assert_close(first, hidden_states(model, token_ids))
