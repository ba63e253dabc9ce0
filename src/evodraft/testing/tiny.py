"""Tiny random transformers models, one per family: real architectures that cost milliseconds.

Weights depend on the family, the sizes and the seed alone, and are large enough that every token of the context
matters: a wrong mask or position changes the logits visibly, and greedy decoding does not get stuck.

This module does not know decoders, drafts or tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SLIDING_WINDOW: Final = 7  # of the families that have one: shorter than any test text worth its name

_SIZES: Final[Mapping[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,  # a tied random model says its last token again and again
}
_EXPERTS: Final[Mapping[str, Any]] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MIXED: Final[Mapping[str, Any]] = {
    "sliding_window": SLIDING_WINDOW,
    "layer_types": ("sliding_attention", "full_attention"),
}
_CHUNKED: Final[Mapping[str, Any]] = {
    "attention_chunk_size": SLIDING_WINDOW,
    "layer_types": ("chunked_attention", "full_attention"),
}

# family -> (model type, what differs from the common sizes; None removes a size that the family does not know)
_RECIPES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": SLIDING_WINDOW}),
    "mixtral": ("mixtral", _EXPERTS),
    "qwen2": ("qwen2", {"head_dim": None}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8, **_MIXED}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 8, **_MIXED}),
    "phi3": ("phi3", {"head_dim": None, "sliding_window": SLIDING_WINDOW}),
    "olmo2": ("olmo2", {"head_dim": None}),
    "gpt_neox": ("gpt_neox", {"num_key_value_heads": None, "head_dim": None}),
    "gpt2": ("gpt2", {"intermediate_size": None, "num_key_value_heads": None, "head_dim": None}),
    "gpt_oss": ("gpt_oss", {**_EXPERTS, **_MIXED}),
    "llama4": ("llama4_text", {**_EXPERTS, **_CHUNKED, "intermediate_size_mlp": 48}),
}


def tiny_model(family: str, vocab_size: int = 64, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A float32 model in eval mode; `changes` go into its config.

    >>> tiny_model("qwen3", vocab_size=100, num_hidden_layers=3).num_parameters() < 50_000
    True
    """
    model_type, differences = _RECIPES[family]
    sizes = {**_SIZES, **differences, **changes, "vocab_size": vocab_size}
    attention = sizes.pop("attn_implementation", None)
    known = {name: list(size) if isinstance(size, tuple) else size for name, size in sizes.items() if size is not None}
    config = AutoConfig.for_model(model_type, **{"eos_token_id": None, **known})
    with torch.random.fork_rng(devices=[]):  # the caller's random stream does not move
        torch.default_generator.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    _fill(model, torch.Generator().manual_seed(seed))
    model.eval()
    return model


def _fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Matrices get unit gain, so that signals neither fade nor explode; norms and biases stay as built."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)


def _maker(family: str) -> Callable[..., PreTrainedModel]:
    def make(vocab_size: int = 64, seed: int = 0, **changes: Any) -> PreTrainedModel:
        return tiny_model(family, vocab_size, seed, **changes)

    return make


TINY_FAMILIES: Final[Mapping[str, Callable[..., PreTrainedModel]]] = {family: _maker(family) for family in _RECIPES}
