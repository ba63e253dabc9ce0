"""What is read off a model before it runs, and who is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from evodraft.errors import CapacityError, UnsupportedModelError
from evodraft.runtime.support import ModelFacts, innermost, resolve_max_length
from evodraft.testing.tiny import tiny_model


def test_facts_of_a_llama():
    facts = ModelFacts.of(tiny_model("llama", vocab_size=48))
    assert facts.vocab_size == 48
    assert facts.num_layers == 2
    assert facts.context_length == 256
    assert facts.additive is None
    assert facts.bytes_per_token == 2 * 2 * 2 * 8 * 4
    assert facts.has_logits_to_keep
    assert facts.unproven_window is None
    assert ModelFacts.of(tiny_model("mistral")).unproven_window == 7
    assert ModelFacts.of(tiny_model("gpt2")).context_length == 256


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("llama", {}, None),
        ("llama", {"sliding_window": 5}, 5),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["full_attention"] * 2}, 5),
        ("qwen3", {"use_sliding_window": False, "sliding_window": 5, "layer_types": ["full_attention"] * 2}, None),
        ("phi3", {"sliding_window": 5, "layer_types": ["full_attention"] * 2}, 5),
        ("gemma2", {}, None),
        ("llama4", {"sliding_window": 5, "layer_types": ["chunked_attention"] * 2}, None),
    ],
)
def test_a_window_is_proven_by_layers_that_differ_alone(family, changes, window):
    assert ModelFacts.of(tiny_model(family, **changes)).unproven_window == window


@pytest.mark.parametrize("num_layers", [0, -1])
def test_a_config_without_layers_is_refused(num_layers):
    model = tiny_model("llama")
    model.config.num_hidden_layers = num_layers
    with pytest.raises(UnsupportedModelError, match=rf"'llama' has {num_layers} layers of 2 heads of 8 numbers"):
        ModelFacts.of(model)


def test_eager_attention_gets_masks_of_the_models_dtype():
    assert ModelFacts.of(tiny_model("llama", attn_implementation="eager").bfloat16()).additive is torch.bfloat16


def test_the_vocabulary_is_what_the_head_says():
    model = tiny_model("llama", vocab_size=48)
    model.resize_token_embeddings(64)
    model.config.vocab_size = 48
    assert ModelFacts.of(model).vocab_size == 64
    model.lm_head = torch.nn.Identity()  # a head without a size of its own
    assert ModelFacts.of(model).vocab_size == 48


def build(model_type, **sizes):
    config = AutoConfig.for_model(model_type, vocab_size=32, **sizes)
    return AutoModelForCausalLM.from_config(config)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
STATEFUL = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "recurrent_gemma": {**SMALL, "lru_width": 32, "attention_window_size": 8},
    "jamba": {**SMALL, "num_key_value_heads": 2, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    "qwen3_next": {
        **SMALL,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


@pytest.mark.parametrize("model_type", STATEFUL)
def test_models_with_a_state_are_refused(model_type):
    with pytest.raises(UnsupportedModelError, match=f"'{model_type}' .*cannot be rolled back.*attention layers only"):
        ModelFacts.of(build(model_type, **STATEFUL[model_type]))


def test_layers_with_a_state_are_refused_even_if_the_model_does_not_say_so():
    model = tiny_model("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedModelError, match="linear_attention"):
        ModelFacts.of(model)


def test_encoder_decoders_are_refused():
    config = T5Config(d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=4, vocab_size=32, decoder_start_token_id=0)
    with pytest.raises(UnsupportedModelError, match="'t5' is an encoder-decoder"):
        ModelFacts.of(T5ForConditionalGeneration(config))


def test_models_that_take_no_positions_are_refused():
    with pytest.raises(UnsupportedModelError, match="'bloom' has no parameter position_ids"):
        ModelFacts.of(build("bloom", hidden_size=32, n_layer=2, n_head=4))


def test_what_is_no_transformers_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="Linear has no transformers config"):
        ModelFacts.of(torch.nn.Linear(2, 2))


def test_attention_without_ready_masks_is_refused():
    model = tiny_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match=r"'flash_attention_2' does not take a ready mask.*sdpa, eager"):
        ModelFacts.of(model)


def test_wrappers_are_looked_through():
    model = tiny_model("llama")
    compiled = SimpleNamespace(_orig_mod=model)  # what torch.compile wraps around a module
    assert innermost(SimpleNamespace(get_base_model=lambda: compiled)) is model
    assert ModelFacts.of(compiled) == ModelFacts.of(model)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"rope_type": "default"}, 256),
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 64}, 64),
        ({"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 32}}, 32),
    ],
)
def test_the_context_ends_where_the_rotary_frequencies_would_move(rope, length):
    model = tiny_model("llama")
    model.config.rope_parameters = {"rope_theta": 10000.0, **rope}
    assert ModelFacts.of(model).context_length == length


def test_a_config_without_a_context_says_nothing():
    model = tiny_model("llama")
    model.config.rope_parameters = {"rope_type": "dynamic", "original_max_position_embeddings": 32}
    object.__setattr__(model.config, "max_position_embeddings", None)  # as a config that never had it
    assert ModelFacts.of(model).context_length == 32
    model.config.rope_parameters = None
    assert ModelFacts.of(model).context_length is None


@pytest.fixture(scope="module")
def facts():
    return replace(ModelFacts.of(tiny_model("llama")), bytes_per_token=100)


@pytest.mark.parametrize(
    ("max_length", "kv_cache_bytes", "length"),
    [(None, None, 256), (64, None, 64), (None, 20_000, 50), (50, 20_000, 50), (None, 10**9, 256)],
)
def test_the_length_is_what_fits(facts, max_length, kv_cache_bytes, length):
    assert resolve_max_length(facts, max_length, 4, kv_cache_bytes) == length


@pytest.mark.parametrize(
    ("max_length", "num_slots", "kv_cache_bytes", "message"),
    [
        (300, 4, None, "max_length=300 exceeds 256, the context of the model; lower max_length"),
        (51, 4, 20_000, "max_length=51 exceeds 50, what kv_cache_bytes=20000 holds for 4 slots at 100 bytes"),
        (0, 4, None, "0 tokens and must hold at least 1: raise max_length"),
        (None, 4, 399, "0 tokens and must hold at least 1: what kv_cache_bytes=399 holds"),
        (None, 0, None, "num_slots=0 is below 1"),
    ],
)
def test_what_does_not_fit_is_refused(facts, max_length, num_slots, kv_cache_bytes, message):
    with pytest.raises(CapacityError, match=message):
        resolve_max_length(facts, max_length, num_slots, kv_cache_bytes)


def test_without_a_context_the_caller_must_choose(facts):
    endless = replace(facts, context_length=None)
    assert resolve_max_length(endless, 10_000, 4, None) == 10_000
    with pytest.raises(CapacityError, match="names no context length; pass max_length"):
        resolve_max_length(endless, None, 4, None)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # gpt_bigcode before transformers 5.23
@pytest.mark.parametrize(
    ("model_type", "sizes", "num_kv_heads"),
    [
        ("falcon", {"multi_query": True}, 1),
        ("falcon", {"multi_query": False, "new_decoder_architecture": False}, 4),
        ("falcon", {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 2}, 4),
        ("gpt_bigcode", {"multi_query": True}, 1),
        ("gpt_bigcode", {"multi_query": False, "n_head": 4}, 4),
    ],
)
def test_the_cache_holds_as_many_heads_as_the_model_stores(model_type, sizes, num_kv_heads):
    """Multi-query models keep one pair of heads; the newer falcons repeat theirs before they cache them."""
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = build(model_type, **common, **sizes).eval()
    cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    stored = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values)) // 3
    assert ModelFacts.of(model).bytes_per_token == stored == 2 * 2 * num_kv_heads * 8 * 4
