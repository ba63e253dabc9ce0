"""Weights are read where they lie, and a model whose weights do not tell everything is refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.check import check_model
from evodraft.runtime.choose import choose_runtime
from evodraft.runtime.family import read_family
from evodraft.runtime.masks import FULL_ATTENTION, LayerKind
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import SLIDING_WINDOW, TINY_FAMILIES, tiny_model

FAMILIES = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")


def read(model):
    return read_family(model, ModelFacts.of(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_a_view_of_the_model(family):
    model = tiny_model(family, vocab_size=48)
    weights = read(model)
    ours = [weights.embedding, weights.final_norm, weights.head.weight]
    for layer in weights.layers:
        ours += [part.weight for part in (layer.query, layer.key, layer.value, layer.output)]
        ours += [part.weight for part in (layer.gate, layer.up, layer.down)]
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in ours} <= storages
    assert not any(tensor.requires_grad for tensor in ours)
    assert all(tensor.is_contiguous() for tensor in ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes(family):
    weights = read(tiny_model(family, vocab_size=48))
    assert (weights.vocab_size, weights.hidden_size, len(weights.layers)) == (48, 32, 2)
    assert (weights.num_heads, weights.num_kv_heads, weights.head_dim, weights.rotary_dim) == (4, 2, 8, 8)
    assert (weights.dtype, weights.device) == (torch.float32, torch.device("cpu"))
    assert weights.scaling == 8**-0.5
    assert weights.matrix_bytes == 4 * (2 * (4 * 32 * 32 - 2 * 16 * 32 + 3 * 48 * 32) + 48 * 32)
    for layer in weights.layers:
        shapes = [tuple(part.weight.shape) for part in (layer.query, layer.key, layer.value, layer.output)]
        assert shapes == [(32, 32), (16, 32), (16, 32), (32, 32)]
        shapes = [tuple(part.weight.shape) for part in (layer.gate, layer.up, layer.down)]
        assert shapes == [(48, 32), (48, 32), (32, 48)]


def test_phi3_is_cut_into_its_parts():
    model = tiny_model("phi3")
    layer, attention = read(model).layers[1], model.model.layers[1].self_attn
    parts = [part.weight for part in (layer.query, layer.key, layer.value)]
    assert torch.equal(torch.cat(parts), attention.qkv_proj.weight)
    assert torch.equal(torch.cat([layer.gate.weight, layer.up.weight]), model.model.layers[1].mlp.gate_up_proj.weight)


def test_a_joined_bias_is_cut_with_its_matrix():
    model = tiny_model("phi3")
    model.model.layers[0].self_attn.qkv_proj.bias = nn.Parameter(torch.arange(64.0))
    layer = read(model).layers[0]
    assert [part.bias[0].item() for part in (layer.query, layer.key, layer.value)] == [0, 32, 48]


def test_partial_rotation_is_read_from_the_frequencies():
    half = {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    assert read(tiny_model("phi3", **half)).rotary_dim == 4


def test_windows_are_those_of_the_facts():
    mixed = tiny_model("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1)
    assert [layer.window for layer in read(mixed).layers] == [None, 5]
    assert [layer.window for layer in read(tiny_model("mistral")).layers] == [SLIDING_WINDOW] * 2
    ignoring = tiny_model("llama")
    ignoring.config.sliding_window = 5
    facts = ModelFacts.of(ignoring)
    assert [layer.window for layer in read_family(ignoring, facts).layers] == [5, 5]
    assert [layer.window for layer in read_family(ignoring, check_model(ignoring, facts)).layers] == [None, None]


def test_chunks_are_refused():
    model = tiny_model("llama")
    facts = replace(ModelFacts.of(model), kinds=(FULL_ATTENTION, LayerKind("chunked_attention", chunk=4)))
    with pytest.raises(UnsupportedModelError, match="attends in chunks"):
        read_family(model, facts)


@pytest.mark.parametrize("family", sorted(set(TINY_FAMILIES) - set(FAMILIES)))
def test_other_families_are_refused(family):
    attention = {"attn_implementation": "eager"}
    with pytest.raises(UnsupportedModelError, match=r"is none of llama, mistral.*decode it with HfDecoder"):
        read(tiny_model(family, **attention))


def wrapped(model):
    return torch.compile(model, backend="eager")


def with_an_unknown_parameter(model):
    model.model.layers[1].self_attn.sinks = nn.Parameter(torch.zeros(4))


def with_two_epsilons(model):
    model.model.layers[0].input_layernorm.variance_epsilon = 1e-3


def with_a_part_missing(model):
    del model.model.layers[1].mlp.up_proj


def with_moving_rope(model):
    model.model.rotary_emb.rope_type = "dynamic"


def with_two_scalings(model):
    model.model.layers[1].self_attn.scaling = 0.5


def with_two_sizes_of_heads(model):
    model.model.layers[1].self_attn.head_dim = 16


def pruned(model):
    model.model.layers = model.model.layers[:1]


def without_layers(model):
    model.model.layers = model.model.layers[:0]


def put_as_buffer(linear, weight):
    del linear.weight
    linear.register_buffer("weight", weight)


def with_a_transposed_buffer(model):
    put_as_buffer(model.lm_head, torch.zeros(32, 64).t())


def with_a_buffer_of_another_type(model):
    put_as_buffer(model.lm_head, torch.zeros(64, 32, dtype=torch.int8))


def with_a_hook(model):
    model.model.layers[0].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrapped, "the model is wrapped"),
        (with_an_unknown_parameter, r"its parameter model.layers.1.self_attn.sinks has no place in model type 'llama'"),
        (with_two_epsilons, r"it has 2 different epsilons of norms \(\[1e-06, 0.001\]\)"),
        (with_two_scalings, r"it has 2 different scalings of attention \(\[0.35.*, 0.5\]\) and only one is supported"),
        (with_two_sizes_of_heads, r"it has 2 different sizes of heads \(\[8, 16\]\)"),
        (pruned, "it has 1 layers and its config says 2"),
        (without_layers, "it has 0 layers and its config says 2"),
        (with_a_transposed_buffer, r"a weight of shape \(64, 32\) does not lie in memory row by row"),
        (with_a_buffer_of_another_type, "a weight is torch.int8 on cpu, its embeddings torch.float32 on cpu"),
        (with_a_part_missing, r"not laid out as model type 'llama' has them \(.*up_proj"),
        (with_moving_rope, "rope type 'dynamic' may change its frequencies"),
        (with_a_hook, "a hook on model.layers.0 may change what it returns"),
    ],
)
def test_what_weights_do_not_tell_is_refused(change, reason):
    model = tiny_model("llama")
    changed = change(model)
    with pytest.raises(UnsupportedModelError, match=reason):
        read(model if changed is None else changed)


def test_a_pruned_model_is_decoded_by_its_own_modules():
    model = tiny_model("llama")
    pruned(model)
    report = choose_runtime(model).report
    assert report.name == "transformers"
    assert all("1 layers and its config says 2" in reason for _, reason in report.passed_over)


def test_a_model_without_a_head_is_refused():
    model = tiny_model("llama")
    with pytest.raises(UnsupportedModelError, match="not laid out"):
        read_family(model.model, ModelFacts.of(model))
