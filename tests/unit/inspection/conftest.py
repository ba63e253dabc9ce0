"""Configs in the shape of models that nobody would load in a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from evodraft.testing.tokenizers import byte_tokenizer

# What the config.json of the published models says, as far as sizes go.
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama-3.1-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    "qwen3-4b": {
        "model_type": "qwen3",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
}


@pytest.fixture
def shaped(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a config, a tokenizer, and no weights."""

    def write(shape: str, *, tokenizer: bool = True, **changes: Any) -> Path:
        folder = tmp_path / shape
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**SHAPES[shape], **changes}), encoding="utf-8")
        if tokenizer:
            byte_tokenizer().save_pretrained(folder)
        return folder

    return write
