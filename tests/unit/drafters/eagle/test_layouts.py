"""What configs of published heads say, and which heads are refused by what theirs says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from evodraft.drafters.eagle.layouts import describe, describe_head
from evodraft.errors import UnsupportedModelError, WeightsError
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model

# As SafeAILab publishes the head of Llama-3.1-8B-Instruct.
LLAMA: Final[Mapping[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 128256,
    "draft_vocab_size": 32000,
}
# As SpecForge publishes the head of Qwen3-235B-A22B.
QWEN: Final[Mapping[str, Any]] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 46, 90], "use_aux_hidden_state": True},
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 24576,
    "max_position_embeddings": 40960,
    "model_type": "llama",
    "num_attention_heads": 64,
    "num_hidden_layers": 1,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "draft_vocab_size": 32000,
    "vocab_size": 151936,
}
SPECULATOR: Final[Mapping[str, Any]] = {
    "architectures": ["Eagle3Speculator"],
    "speculators_model_type": "eagle3",
    "speculators_config": {"algorithm": "eagle3", "verifier": {"name_or_path": "Qwen/Qwen3-8B"}},
    "draft_vocab_size": 32000,
    "norm_before_residual": True,
    "target_hidden_size": None,
    "eagle_aux_hidden_state_layer_ids": [2, 18, 33],
    "transformer_layer_config": {
        "model_type": "llama",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-06,
        "num_hidden_layers": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
}


def layered(**changes: Any) -> dict[str, Any]:
    return {**SPECULATOR, "transformer_layer_config": {**SPECULATOR["transformer_layer_config"], **changes}}


@pytest.mark.parametrize(
    ("config", "layout", "taps", "theta", "head_dim", "eps", "is_normed_first", "target"),
    [
        (LLAMA, "published", None, 10000.0, 128, 1e-5, False, None),
        (QWEN, "published", (2, 47, 91), 1e6, 128, 1e-6, False, None),
        (SPECULATOR, "speculators", (2, 18, 33), 1e6, 128, 1e-6, True, "Qwen/Qwen3-8B"),
    ],
    ids=["llama", "qwen", "speculators"],
)
def test_published_configs(
    config: Mapping[str, Any],
    layout: str,
    taps: tuple[int, ...] | None,
    theta: float,
    head_dim: int,
    eps: float,
    is_normed_first: bool,
    target: str | None,
) -> None:
    found = describe(config, "here")
    assert (found.layout, found.taps, found.target, found.origin) == (layout, taps, target, None)
    assert (found.norm_before_residual, found.draft_vocab_size) == (is_normed_first, 32000)
    assert (found.layer.rope_parameters or {})["rope_theta"] == theta
    assert (found.layer.head_dim, found.layer.rms_norm_eps, found.layer.num_hidden_layers) == (head_dim, eps, 1)
    assert found.target_hidden_size == 4096


@pytest.mark.parametrize(
    ("keys", "taps"),
    [
        ({}, None),
        ({"eagle_aux_hidden_state_layer_ids": [2, 16, 29]}, (2, 16, 29)),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 15, 28]}}, (2, 16, 29)),
        ({"aux_hidden_states_layer_ids": [1, 15, 28]}, (2, 16, 29)),
        ({"eagle_config": None}, None),
        ({"evodraft": {"taps": [0, 4, 8]}, "eagle_aux_hidden_state_layer_ids": [1, 2, 3]}, (0, 4, 8)),
    ],
)
def test_taps_in_every_spelling(keys: Mapping[str, Any], taps: tuple[int, ...] | None) -> None:
    assert describe({**LLAMA, **keys}, "here").taps == taps


def test_a_smaller_head_than_its_target() -> None:
    assert describe({**LLAMA, "target_hidden_size": 8192}, "here").target_hidden_size == 8192


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 10000.0},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ],
)
def test_rope_in_every_spelling(rope: Mapping[str, Any]) -> None:
    found = describe({**LLAMA, **rope}, "here").layer.rope_parameters or {}
    assert (found["rope_type"], found["factor"], found["rope_theta"]) == ("linear", 2.0, 10000.0)


def test_a_loaded_head_describes_itself() -> None:
    head = tiny_head(tiny_model("llama"), token_ids=[1, 5])
    found = describe_head(head)
    assert (found.taps, found.draft_vocab_size, found.target_hidden_size) == ((0, 1, 2), 2, 32)


REFUSED: Final[Mapping[str, tuple[Mapping[str, Any], str]]] = {
    "eagle 3.1, taps normed together": ({**LLAMA, "norm_before_fc": True}, "normalises the taps"),
    "eagle 3.1, taps normed each": ({**LLAMA, "fc_norm": True}, "normalises each tap"),
    "eagle 3.1, normed feedback": (layered(norm_output=True), "feeds back normed states"),
    "parallel drafting": ({**SPECULATOR, "speculators_model_type": "peagle"}, "speculator of type 'peagle'"),
    "another speculator": ({**SPECULATOR, "speculators_model_type": "dflash"}, "speculator of type 'dflash'"),
    "fp8": ({**LLAMA, "quantization_config": {"quant_method": "fp8"}}, "stores quantised weights"),
    "two layers": ({**LLAMA, "num_hidden_layers": 2}, "has num_hidden_layers=2"),
    "two layers in a block": (layered(num_hidden_layers=4), "has num_hidden_layers=4"),
    "other layers": (layered(model_type="qwen3"), "a layer of model type 'qwen3'"),
    "sliding": (layered(layer_types=["sliding_attention"]), "has layer_types="),
    "gelu": ({**LLAMA, "hidden_act": "gelu"}, "has hidden_act='gelu'"),
    "last hidden state alone": ({**LLAMA, "eagle_config": {"use_aux_hidden_state": False}}, "EAGLE-1 and EAGLE-2"),
    "vLLM's wrapper": ({"model_type": "eagle", "model": dict(LLAMA)}, "EAGLE-1 or EAGLE-2"),
    "rope by length": ({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
    "one tap": ({**LLAMA, "eagle_aux_hidden_state_layer_ids": [2]}, r"names the taps \[2\]"),
    "taps that are no numbers": ({**LLAMA, "eagle_aux_hidden_state_layer_ids": ["a", "b", "c"]}, "names the taps"),
    "a residual that is not said": (
        {key: value for key, value in SPECULATOR.items() if key != "norm_before_residual"},
        "does not say norm_before_residual",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_arithmetic_is_refused(name: str) -> None:
    config, words = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=words):
        describe(config, "owner/head")


DAMAGED: Final[Mapping[str, Mapping[str, Any]]] = {
    "empty": {},
    "no sizes": {key: value for key, value in LLAMA.items() if key != "hidden_size"},
    "a size in words": {**LLAMA, "hidden_size": "4096"},
    "a negative size": {**LLAMA, "head_dim": -1},
    "a size of all memory": {**LLAMA, "vocab_size": 2**60},
    "no whole number of heads": {**LLAMA, "num_key_value_heads": 5},
    "a layer that is a list": {**SPECULATOR, "transformer_layer_config": [1]},
    "no layer": {key: value for key, value in SPECULATOR.items() if key != "transformer_layer_config"},
    "eps in words": {**LLAMA, "rms_norm_eps": "small"},
    "an origin of another kind": {**LLAMA, "evodraft": {"target": {"hidden_size": 1}}},
    "a switch in words": {**LLAMA, "norm_before_residual": "false"},
    "a block that is a word": {**LLAMA, "eagle_config": "yes"},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_configs(name: str) -> None:
    with pytest.raises(WeightsError, match="copy or download it again"):
        describe(DAMAGED[name], "owner/head")


def test_a_later_format_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="owner/head was written in format 2 and this version reads 1"):
        describe({**LLAMA, "evodraft": {"format": 2}}, "owner/head")
