"""A window in the config is real only if the model looks through it."""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.support import ModelFacts
from evodraft.runtime.window_probe import ignores_window
from evodraft.testing.tiny import tiny_model


def probe(model, window=7):
    return ignores_window(model, ModelFacts.of(model), window)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["mistral", "phi3"])
def test_real_windows_are_seen(family, attention, dtype):
    assert not probe(tiny_model(family, attn_implementation=attention).to(dtype))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma", "olmo2", "gpt_neox", "gpt2"])
def test_ignored_windows_are_seen(family, attention, dtype):
    assert probe(tiny_model(family, attn_implementation=attention).to(dtype))


def test_a_window_that_no_sequence_outgrows_is_not_probed():
    model = tiny_model("llama")
    assert not probe(model, window=255)
    assert probe(model, window=254)


def test_the_past_is_made_up():
    from evodraft.runtime.window_probe import _TwoPasts

    past = _TwoPasts(num_layers=1, columns=9)
    past.layers[0].lazy_initialization(torch.ones(1), torch.ones(1))
    assert past.get_max_length() == 9
    keys, values = past.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4), 0)
    assert keys.sum() == 8
    assert (values[1, 0, 0] == 900).all()
