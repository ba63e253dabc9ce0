"""Target training: it learns, grows, and resumes bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from evodraft.errors import TrainingError, WeightsError
from evodraft.training.checkpoint import WEIGHTS_FILE, latest_checkpoint
from evodraft.training.evaluate import exit_losses
from evodraft.training.target import Phase, TargetRecipe, TargetTrainer


@pytest.fixture
def recipe(shape):
    phases = (Phase(4, 1, 4, 24), Phase(4, 2, 4, 24), Phase(2, 2, 2, 48))
    return TargetRecipe(phases, shape, warmup_steps=2, matrix_rate=1e-2, other_rate=1e-2, late_from=5)


@pytest.fixture
def trainer(recipe, streams, mix, ids, tmp_path):
    def make(name="run", parent=None, **changes):
        return TargetTrainer(replace(recipe, **changes), streams, mix, ids, 300, tmp_path / name, parent)

    return make


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(trainer, optimizer, stop):
    whole = weights_of(trainer("whole", optimizer=optimizer).run())
    trainer("parts", optimizer=optimizer).run(until=stop)
    second = trainer("parts", optimizer=optimizer)
    assert second.resume()
    assert second.step == stop
    resumed = weights_of(second.run())
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert second.num_tokens == 8 * 4 * 24 + 2 * 2 * 48


def test_the_loss_falls_and_the_model_grows(trainer):
    reports = []
    model = trainer(phases=(Phase(30, 1, 8, 32), Phase(30, 2, 8, 32)), is_bfloat16=False).run(report=reports.append)
    assert [report.step for report in reports] == list(range(1, 61))
    assert reports[0].loss == pytest.approx(math.log(300), abs=0.3)
    assert sum(report.loss for report in reports[-5:]) / 5 < 2.5
    assert model.config.num_hidden_layers == 2


def test_nothing_to_resume_is_no_error(trainer):
    assert not trainer().resume()


def test_a_damaged_checkpoint_is_a_clear_error(trainer, tmp_path):
    trainer().run(until=2)
    path = latest_checkpoint(tmp_path / "run")
    assert path is not None
    (path / WEIGHTS_FILE).write_bytes(b"broken")
    with pytest.raises(WeightsError, match="damaged, resume from an earlier step"):
        trainer().resume()


def test_a_checkpoint_of_other_data_is_refused(trainer, recipe, streams, mix, ids, tmp_path):
    trainer().run(until=1)
    shorter = {slug: stream[:500] for slug, stream in streams.items()}
    with pytest.raises(TrainingError, match="data_sha256"):
        TargetTrainer(recipe, shorter, mix, ids, 300, tmp_path / "run").resume()


def test_a_diverged_run_stops(trainer):
    broken = trainer()
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="NaN at step 0"):
        broken.run()


@pytest.mark.parametrize("depths", [(), (2, 1), (1, 1)])
def test_phases_must_grow_to_the_shape(shape, depths):
    with pytest.raises(TrainingError, match="must grow to the shape's 2"):
        TargetRecipe(tuple(Phase(1, depth, 1, 8) for depth in depths), shape)


def test_steps_belong_to_phases(recipe):
    assert [recipe.phase(step).num_layers for step in (0, 3, 4, 9)] == [1, 1, 2, 2]
    with pytest.raises(TrainingError, match="beyond"):
        recipe.phase(10)


def test_the_exit_loss_teaches_the_intermediate_layers(trainer, shape, streams):
    deep = replace(shape, num_layers=4)
    phases = (Phase(60, 4, 8, 32),)
    plain, taught = (trainer(f"w{w}", phases=phases, shape=deep, exit_weight=w).run() for w in (0.0, 1.0))
    losses = [exit_losses(model, streams, [2, 4], 32) for model in (plain, taught)]
    assert losses[1][2] < losses[0][2] - 0.3
    assert losses[1][4] < losses[0][4] + 0.5


def test_a_run_can_begin_with_the_weights_of_another_model(trainer, model):
    child = trainer(phases=(Phase(1, 2, 2, 8),), parent=model)
    for name, value in model.named_parameters():
        assert torch.equal(value, dict(child.model.named_parameters())[name])
    child.run()
    assert not torch.equal(child.model.model.norm.weight, model.model.norm.weight)


@pytest.mark.parametrize("wrong", [{"exit_weight": -1.0}, {"exit_share": 0.0}, {"exit_share": 1.5}])
def test_wrong_exit_options_are_refused(recipe, wrong):
    with pytest.raises(TrainingError, match="exit_weight is"):
        replace(recipe, **wrong)
