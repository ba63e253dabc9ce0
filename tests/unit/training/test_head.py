"""Training a head: what learns, what stays, and how a run ends and goes on."""

from __future__ import annotations

import json
import math

import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.testing.tiny import tiny_model
from evodraft.training.checkpoint import latest_checkpoint
from evodraft.training.generated import PackedRows
from evodraft.training.head import HeadRecipe, HeadTrainer, Length
from evodraft.training.head_score import score_head
from evodraft.training.head_start import new_head

RECIPE = HeadRecipe(
    num_depths=3, batch=4, context=16, warmup_steps=2, is_bfloat16=False, matrix_rate=2e-2, other_rate=1e-2
)
DOCUMENTS = [[1, *range(start, start + 9)] for start in range(2, 50)]


@pytest.fixture
def target():
    return tiny_model("llama")


@pytest.fixture
def trainer(target, tmp_path):
    return make_trainer(target, tmp_path)


def make_trainer(target, folder, recipe: HeadRecipe = RECIPE) -> HeadTrainer:
    return HeadTrainer(target, new_head(target, (0, 1, 2)), PackedRows(DOCUMENTS, 0), recipe, folder)


def test_the_head_learns_at_every_depth_and_the_target_stays(target, trainer) -> None:
    weights = {name: value.clone() for name, value in target.state_dict().items()}
    rows = PackedRows(DOCUMENTS, 5).next_batch(8, 16)
    before = score_head(target, trainer.head, rows, 3)
    reports = []
    trainer.run(Length(40), report=reports.append)
    after = score_head(target, trainer.head, rows, 3)
    assert all(late < 0.7 * early for early, late in zip(before.divergence, after.divergence, strict=True))
    assert sum(after.agreement) > sum(before.agreement)
    assert reports[-1].loss < reports[0].loss
    assert [report.step for report in reports] == list(range(1, 41))
    assert {len(reports[-1].divergence), len(reports[-1].overlap), len(reports[-1].agreement)} == {3}
    assert json.loads(json.dumps(reports[-1]._asdict()))["num_tokens"] == 64
    assert all(torch.equal(value, weights[name]) for name, value in target.state_dict().items())
    assert all(value.grad is None for value in target.parameters())


def test_the_loss_is_the_weighted_mean_of_the_depths(trainer) -> None:
    reports = []
    trainer.run(Length(1), report=reports.append)
    shares = [RECIPE.depth_decay**depth for depth in range(3)]
    expected = sum(map(float.__mul__, shares, reports[0].divergence)) / sum(shares)
    assert reports[0].loss == pytest.approx(expected, abs=1e-3)


def test_bfloat16_trains_too(target, tmp_path) -> None:
    recipe = HeadRecipe(num_depths=2, batch=4, context=16, warmup_steps=1, matrix_rate=2e-2)
    reports = []
    make_trainer(target, tmp_path, recipe).run(Length(15), report=reports.append)
    assert reports[-1].loss < reports[0].loss
    assert {value.dtype for value in make_trainer(target, tmp_path).head.parameters()} == {torch.float32}


def test_a_resumed_run_ends_with_the_weights_of_one_that_went_through(target, tmp_path) -> None:
    through = make_trainer(target, tmp_path / "a")
    through.run(Length(8))
    first = make_trainer(target, tmp_path / "b")
    first.run(Length(8), checkpoint_every=3, report=lambda report: first.stop() if report.step == 5 else None)
    assert first.step == 5
    second = make_trainer(target, tmp_path / "b")
    assert second.resume()
    assert (second.step, second.num_tokens) == (5, first.num_tokens)
    second.run(Length(8))
    expected = through.head.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.head.state_dict().items())


def test_a_run_of_another_recipe_is_not_resumed(target, tmp_path) -> None:
    assert not make_trainer(target, tmp_path).resume()
    make_trainer(target, tmp_path).run(Length(1))
    other = HeadRecipe(num_depths=2, batch=4, context=16)
    with pytest.raises(TrainingError, match="recipe"):
        make_trainer(target, tmp_path, other).resume()


def test_minutes_end_a_run_and_count_over_all_starts(target, trainer, tmp_path) -> None:
    trainer.seconds = 59.9999
    trainer.run(Length(minutes=1.0))
    assert trainer.step == 1
    again = make_trainer(target, tmp_path)
    again.resume()
    again.run(Length(1000, minutes=1.0))
    assert again.step == 1
    assert latest_checkpoint(tmp_path) == tmp_path / "step-0000001"


@pytest.mark.parametrize(
    ("length", "step", "seconds", "share"),
    [
        (Length(10), 5, 1e9, 0.5),
        (Length(minutes=2), 5, 30, 0.25),
        (Length(10, 2), 5, 30, 0.5),
        (Length(10, 2), 1, 90, 0.75),
    ],
)
def test_the_shorter_length_counts(length, step, seconds, share) -> None:
    assert length.share(step, seconds) == pytest.approx(share)


def test_rates_warm_up_stay_and_fall_to_zero(trainer) -> None:
    def factor(step: int) -> float:
        trainer.step = step
        return trainer._factor(Length(100))

    assert [factor(step) for step in (0, 1, 40)] == [0.5, 1.0, 1.0]
    assert factor(70) == pytest.approx(0.5)
    assert factor(100) == 0.0


def test_a_run_without_an_end_is_refused(trainer) -> None:
    with pytest.raises(TrainingError, match="no end"):
        trainer.run(Length())


def test_a_loss_that_is_no_number_ends_the_run(trainer) -> None:
    trainer.head.fc.weight.data.fill_(math.nan)
    with pytest.raises(TrainingError, match="nan at step 0"):
        trainer.run(Length(1))


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"root_share": 0.0}, "0.0"),
        ({"root_share": 1.5}, "1.5"),
        ({"decay_share": 0.0}, "0.0"),
        ({"num_depths": 0}, "num_depths 0"),
        ({"num_depths": 15, "context": 16}, "1 to 14"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, value) -> None:
    with pytest.raises(TrainingError, match=value):
        HeadRecipe(**changes)
