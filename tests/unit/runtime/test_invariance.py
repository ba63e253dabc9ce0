"""The trial at start finds a step whose bits depend on the width of a pass, on its neighbours, or on its reach."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.family import read_family
from evodraft.runtime.invariance import is_invariant
from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.step import LayersOutput
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model

LAST_BIT = 2.0**-20


def step_and_facts(kind=NativeStep, family="llama", dtype=torch.float32, **changes):
    model = tiny_model(family, **changes).to(dtype)
    facts = ModelFacts.of(model)
    return kind(read_family(model, facts), load_library()), facts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"])
def test_the_native_step_is(family, dtype):
    assert is_invariant(*step_and_facts(family=family, dtype=dtype))


class WidthOfHead(NativeStep):
    def head(self, hidden):
        return super().head(hidden) * (1.0 + LAST_BIT * (hidden.shape[1] > 16))


class WidthOfLayers(NativeStep):
    def layers(self, hidden, cache, step, first, last, taps):
        output = super().layers(hidden, cache, step, first, last, taps)
        return LayersOutput(output.hidden * (1.0 + LAST_BIT * (step.width % 2)), output.taps)


class Neighbours(NativeStep):
    def layers(self, hidden, cache, step, first, last, taps):
        output = super().layers(hidden, cache, step, first, last, taps)
        return LayersOutput(output.hidden * (1.0 + LAST_BIT * (len(step.slots) > 1)), output.taps)


class LongestNeighbour(NativeStep):
    """Depends on how far the pass reaches, as attention over padded columns may."""

    def layers(self, hidden, cache, step, first, last, taps):
        output = super().layers(hidden, cache, step, first, last, taps)
        return LayersOutput(output.hidden * (1.0 + LAST_BIT * (step.columns > 24)), output.taps)


class OneToken(NativeStep):
    """A kernel of its own for vectors, as most libraries have."""

    def head(self, hidden):
        return super().head(hidden) * (1.0 + LAST_BIT * (hidden.shape[0] * hidden.shape[1] == 1))


@pytest.mark.parametrize("mutant", [WidthOfHead, WidthOfLayers, Neighbours, LongestNeighbour, OneToken])
def test_a_step_that_is_not(mutant):
    assert not is_invariant(*step_and_facts(mutant))


def test_numbers_that_are_not_finite_prove_nothing():
    step, facts = step_and_facts()
    assert is_invariant(step, facts)
    broken = tiny_model("llama")
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)
    assert not is_invariant(NativeStep(read_family(broken, facts), load_library()), facts)


@pytest.mark.parametrize("context", [4, 5, 23, 24])
def test_short_contexts_are_tried_as_far_as_they_go(context):
    step, facts = step_and_facts(max_position_embeddings=context)
    assert facts.context_length == context
    assert is_invariant(step, facts)


def test_one_layer_and_a_small_vocabulary():
    assert is_invariant(*step_and_facts(num_hidden_layers=1, vocab_size=8))
