"""Shapes of real models, as the sizes in their public configs. Does not know weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from evodraft.errors import UnknownOptionError


class Shape(NamedTuple):
    """What a config needs for a model of these sizes."""

    model_type: str
    sizes: Mapping[str, Any]

    @property
    def num_layers(self) -> int:
        return int(self.sizes["num_hidden_layers"])

    def config(self, num_layers: int | None = None) -> Any:
        """A transformers config, cut to `num_layers` (None = all), that names no token as the end of a text."""
        from transformers import AutoConfig

        sizes = {**self.sizes, "num_hidden_layers": num_layers or self.num_layers}
        return AutoConfig.for_model(self.model_type, **sizes, **_NO_SPECIAL_TOKENS)


def shape_of(name: str) -> Shape:
    """The shape of that name. Raises UnknownOptionError."""
    if name not in SHAPES:
        raise UnknownOptionError("shape", name, SHAPES)
    return SHAPES[name]


def _sizes(layers: int, hidden: int, intermediate: int, heads: tuple[int, int], **others: Any) -> dict[str, Any]:
    """`heads` are those of queries, and of keys and values."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        **others,
    }


_NO_SPECIAL_TOKENS: Final[Mapping[str, None]] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_LLAMA_3_ROPE: Final[Mapping[str, Any]] = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_QWEN_3_ROPE: Final[Mapping[str, Any]] = {"rope_type": "default", "rope_theta": 1_000_000.0}
_SMALL: Final[Mapping[str, Any]] = {"vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": False}

SHAPES: Final[Mapping[str, Shape]] = {
    "llama-3.1-8b": Shape(
        "llama",
        _sizes(
            *(32, 4096, 14_336, (32, 8)),
            vocab_size=128_256,
            max_position_embeddings=131_072,
            rms_norm_eps=1e-5,
            rope_parameters=dict(_LLAMA_3_ROPE),
            tie_word_embeddings=False,
        ),
    ),
    "qwen3-4b": Shape(
        "qwen3",
        _sizes(
            *(36, 2560, 9728, (32, 8)),
            head_dim=128,
            vocab_size=151_936,
            max_position_embeddings=40_960,
            rms_norm_eps=1e-6,
            rope_parameters=dict(_QWEN_3_ROPE),
            tie_word_embeddings=True,
        ),
    ),
    "llama-350m": Shape("llama", _sizes(24, 1024, 2816, (16, 8), **_SMALL)),
    "llama-100m": Shape("llama", _sizes(12, 640, 1728, (10, 5), **_SMALL)),
    "tiny": Shape("llama", _sizes(4, 32, 48, (4, 2), **{**_SMALL, "vocab_size": 128})),
}
"""The first two are published models; the next two are sizes between them and the demo; the last is for tests."""
