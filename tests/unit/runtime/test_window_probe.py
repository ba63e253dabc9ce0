"""A window in the config is real only if the model looks through it."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.check import check_model
from evodraft.runtime.choose import choose_runtime
from evodraft.runtime.hf import HfDecoder
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
    assert not probe(model, window=256)
    assert probe(model, window=255)


def test_the_past_is_made_up():
    from evodraft.runtime.window_probe import _TwoPasts

    past = _TwoPasts(num_layers=1, columns=9)
    past.layers[0].lazy_initialization(torch.ones(1), torch.ones(1))
    assert past.get_max_length() == 9
    keys, values = past.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4), 0)
    assert keys.sum() == 8
    assert (values[1, 0, 0] == 900).all()


# ---- configs that say one thing of all layers --------------------------------------------------------------------

UNIFORM = ("full_attention", "sliding_attention")
HAS_WINDOW = {  # by what layer_types says: its own code decides which of both it believes
    "phi3": {"full_attention": True, "sliding_attention": True},
    "mistral": {"full_attention": True, "sliding_attention": True},
    "llama": {"full_attention": False, "sliding_attention": False},
    "qwen2": {"full_attention": False, "sliding_attention": True},
    "qwen3": {"full_attention": False, "sliding_attention": True},
    "gemma2": {"full_attention": False, "sliding_attention": True},
    "gemma3": {"full_attention": False, "sliding_attention": True},
}


def uniform(family, kind):
    switch = {"use_sliding_window": True} if family.startswith("qwen") else {}
    return tiny_model(family, sliding_window=5, layer_types=[kind] * 2, **switch)


def make_chosen(model):
    return choose_runtime(model).decoder(num_slots=1)


@pytest.mark.parametrize("kind", UNIFORM)
@pytest.mark.parametrize("family", HAS_WINDOW)
def test_the_check_settles_the_window(family, kind):
    model = uniform(family, kind)
    (observed,) = check_model(model, ModelFacts.of(model)).kinds
    assert observed.window == (5 if HAS_WINDOW[family][kind] else None)


@pytest.mark.parametrize("make", [HfDecoder, make_chosen])
@pytest.mark.parametrize("kind", UNIFORM)
@pytest.mark.parametrize("family", HAS_WINDOW)
def test_what_the_model_does_decides_and_not_its_config(family, kind, make):
    model = uniform(family, kind)
    token_ids = torch.arange(16)[None] * 7 % 64
    with torch.no_grad():
        plain = model(token_ids).logits[0]
    decoder = make(model)
    parts = [
        decoder.forward(part, widths=[part.shape[1]], slots=[0]).logits[0] for part in token_ids.split([9, 1, 6], 1)
    ]
    torch.testing.assert_close(torch.cat(parts), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["mistral", "phi3"])
def test_different_kinds_that_the_model_never_reads_are_refused(family):
    with pytest.raises(UnsupportedModelError, match="failed on a ragged pass"):
        HfDecoder(tiny_model(family, sliding_window=5, layer_types=list(UNIFORM)))
