"""Draft distillation: slicing, and a falling divergence."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.training.data import BatchSampler
from evodraft.training.draft import DraftRecipe, distil, divergence, shape_of, slice_draft
from evodraft.training.generation import sampled_continuations
from evodraft.training.target import Phase, TargetRecipe, TargetTrainer


@pytest.fixture(scope="module")
def target(shape, streams, mix, ids, tmp_path_factory):
    recipe = TargetRecipe((Phase(40, 2, 8, 32),), shape, warmup_steps=2, matrix_rate=1e-2, other_rate=1e-2)
    return TargetTrainer(recipe, streams, mix, ids, 300, tmp_path_factory.mktemp("target")).run()


@pytest.fixture
def sampler(streams, mix, generator):
    return BatchSampler(streams, mix.shares, generator)


def test_the_draft_starts_from_copies_of_the_named_layers(target, ids):
    draft = slice_draft(target, (1,), ids)
    assert draft.config.num_hidden_layers == 1
    assert shape_of(draft).hidden_size == shape_of(target).hidden_size
    for name, value in draft.model.layers[0].state_dict().items():
        assert torch.equal(value, target.model.layers[1].state_dict()[name])
    assert torch.equal(draft.lm_head.weight, target.lm_head.weight)
    assert draft.lm_head.weight.data_ptr() != target.lm_head.weight.data_ptr()


@pytest.mark.parametrize("layers", [(), (2,), (-1, 0)])
def test_layers_the_target_lacks_are_refused(target, ids, layers):
    with pytest.raises(TrainingError, match=r"0\.\.1"):
        slice_draft(target, layers, ids)


@pytest.mark.parametrize("generated_share", [0.0, 0.5, 1.0])
def test_distillation_lowers_the_divergence_and_leaves_the_target_alone(target, ids, sampler, generated_share):
    draft = slice_draft(target, (0,), ids)
    rows = sampler.next_batch(16, 31)
    before, weights = divergence(target, draft, rows).item(), target.lm_head.weight.detach().clone()
    recipe = DraftRecipe(
        25, (0,), batch=8, context=32, generated_share=generated_share, num_pools=1, pool_rows=8, prompt_length=4
    )
    reports = []
    distil(target, draft, sampler, sampled_continuations(target, seed=0), recipe, reports.append)
    assert divergence(target, draft, rows).item() < 0.5 * before
    assert reports[-1].loss < reports[0].loss
    assert torch.equal(weights, target.lm_head.weight)
    assert all(value.grad is None for value in target.parameters())


def test_frozen_embeddings_stay_the_targets(target, ids, sampler):
    draft = slice_draft(target, (0,), ids)
    distil(
        target,
        draft,
        sampler,
        None,
        DraftRecipe(3, (0,), batch=2, context=16, prompt_length=4, is_embedding_trained=False),
    )
    assert torch.equal(draft.lm_head.weight, target.lm_head.weight)
    assert draft.model.embed_tokens.weight.requires_grad


def test_generate_must_return_whole_rows(target, ids, sampler):
    recipe = DraftRecipe(1, (0,), batch=2, context=16, num_pools=1, pool_rows=2, prompt_length=4)
    with pytest.raises(TrainingError, match=r"returned \(2, 4\) ids, \(2, 16\)"):
        distil(target, slice_draft(target, (0,), ids), sampler, lambda prompts, _length: prompts, recipe)


@pytest.mark.parametrize("wrong", [{"generated_share": 1.5}, {"context": 16, "prompt_length": 16}])
def test_recipes_that_cannot_work_are_refused(wrong):
    with pytest.raises(TrainingError):
        DraftRecipe(1, (0,), **wrong)
