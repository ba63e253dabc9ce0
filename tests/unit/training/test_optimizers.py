"""Schedule and optimizers."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.training.optimizers import Optimizers, Schedule


def test_the_schedule_warms_up_stays_and_decays_to_zero():
    schedule = Schedule(num_steps=100, warmup_steps=10, decay_share=0.4)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:61] == [1.0] * 51
    assert factors[80] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert factors[60:] == sorted(factors[60:], reverse=True)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_step_moves_every_parameter_and_clears_gradients(model, name):
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizers = Optimizers(model, name, 1e-2, 1e-2)
    model(input_ids=torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([[5, 6, 7, 8]])).loss.backward()
    assert optimizers.step(1.0) > 0
    for key, value in model.named_parameters():
        assert not torch.equal(value, before[key]), key
        assert value.grad is None


def test_frozen_parameters_stay(model):
    model.model.embed_tokens.requires_grad_(False)
    before = model.model.embed_tokens.weight.detach().clone()
    optimizers = Optimizers(model, "adamw", 1e-2, 1e-2)
    model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    optimizers.step(1.0)
    assert torch.equal(model.model.embed_tokens.weight, before)


def test_state_of_another_optimizer_is_refused(model):
    with pytest.raises(TrainingError, match="another optimizer"):
        Optimizers(model, "muon", 1e-2, 1e-2).restore(Optimizers(model, "adamw", 1e-2, 1e-2).state())


def test_a_model_without_trainable_matrices_is_refused(model):
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable matrices"):
        Optimizers(model, "muon", 1e-2, 1e-2)
