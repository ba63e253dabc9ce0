"""Weights of tied models."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import WeightsError
from evodraft.training.llama import build_model
from evodraft.training.weights import load_weights, unique_weights


def test_weights_are_copies_without_the_tied_one(model):
    weights = unique_weights(model)
    assert "lm_head.weight" not in weights
    weights["model.norm.weight"].zero_()
    assert model.model.norm.weight.abs().sum() > 0


def test_weights_return_to_another_model_with_the_tie_kept(model, shape, ids):
    other = build_model(shape, 300, ids, seed=2)
    load_weights(other, unique_weights(model))
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    assert other.lm_head.weight is other.model.embed_tokens.weight


def test_missing_surplus_and_misshapen_weights_are_refused(model):
    weights = unique_weights(model)
    norm = weights.pop("model.norm.weight")
    with pytest.raises(WeightsError, match=r"lack \['model\.norm\.weight'\]"):
        load_weights(model, weights)
    with pytest.raises(WeightsError, match="surplus"):
        load_weights(model, {**weights, "model.norm.weight": norm, "surplus": norm})
    with pytest.raises(WeightsError, match="do not fit"):
        load_weights(model, {**weights, "model.norm.weight": norm[:-1]})
