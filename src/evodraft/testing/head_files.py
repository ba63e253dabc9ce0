"""EAGLE-3 heads written to folders in the very layouts in which others publish them: names, keys and file types.

The layouts were read off published checkpoints and the code that writes them; docs/heads.md describes them. This module
does not know how such a folder is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from evodraft.drafters.eagle.head import EagleHead

Tensors = dict[str, torch.Tensor]


def write_safeailab(head: EagleHead, folder: Path) -> None:
    """The authors' own: a pickle, and a config that names neither taps nor rope."""
    config = _layer(head) | _vocabularies(head) | {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float16"}
    _write(folder, {key: value for key, value in config.items() if not key.startswith("rope")})
    torch.save(_tensors(head), folder / "pytorch_model.bin")


def write_angelslim(head: EagleHead, folder: Path) -> None:
    """Counts the target's layers from 0 under a key of its own, and says that embeddings are tied."""
    own = {"aux_hidden_states_layer_ids": [tap - 1 for tap in head.shape.taps], "tie_word_embeddings": True}
    _write(folder, _layer(head) | _vocabularies(head) | own | {"architectures": ["Eagle3LlamaForCausalLM"]})
    save_file(_tensors(head), folder / "model.safetensors")


def write_specforge(head: EagleHead, folder: Path) -> None:
    """Counts the target's layers from 0, in a block of its own; in two files with an index."""
    ids = [tap - 1 for tap in head.shape.taps]
    block = {"eagle_aux_hidden_state_layer_ids": ids, "use_aux_hidden_state": True}
    own = {"architectures": ["LlamaForCausalLMEagle3"], "eagle_config": block, "rope_scaling": None}
    _write(folder, _layer(head) | _vocabularies(head) | own)
    tensors = _tensors(head)
    parts = [dict(list(tensors.items())[:4]), dict(list(tensors.items())[4:])]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for part, file in zip(parts, files, strict=True):
        save_file(part, folder / file)
    index = {name: file for part, file in zip(parts, files, strict=True) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")


def write_speculators(head: EagleHead, folder: Path) -> None:
    """The layer in a block of its own, under another name; taps as vLLM counts them; the target is named."""
    config = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_config": {"algorithm": "eagle3", "verifier": {"name_or_path": "owner/target"}},
        "draft_vocab_size": head.shape.draft_vocab_size or head.shape.config.vocab_size,
        "target_hidden_size": None,
        "norm_before_residual": head.shape.norm_before_residual,
        "eagle_aux_hidden_state_layer_ids": list(head.shape.taps),
        "transformer_layer_config": _layer(head),
    }
    _write(folder, config)
    renamed = {name.replace("midlayer.", "layers.0."): value for name, value in _tensors(head).items()}
    save_file(renamed, folder / "model.safetensors")


PUBLISHED: Final[Mapping[str, Callable[[EagleHead, Path], None]]] = {
    "safeailab": write_safeailab,
    "angelslim": write_angelslim,
    "specforge": write_specforge,
    "speculators": write_speculators,
}
"""Layout -> writes a head to a folder, which is made."""


def _layer(head: EagleHead) -> dict[str, Any]:
    layer = head.shape.config
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    rope = layer.rope_parameters or {}
    return {
        **{name: getattr(layer, name) for name in sizes},
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_act": "silu",
        "rms_norm_eps": layer.rms_norm_eps,
        "max_position_embeddings": layer.max_position_embeddings,
        "rope_theta": rope.get("rope_theta"),
    }


def _vocabularies(head: EagleHead) -> dict[str, Any]:
    return {"draft_vocab_size": head.shape.draft_vocab_size or head.shape.config.vocab_size}


def _tensors(head: EagleHead) -> Tensors:
    """With both maps between vocabularies, as trainers register them for every head with an output matrix."""
    tensors = {name: value.clone() for name, value in head.state_dict().items()}
    if head.token_ids is not None:
        members = torch.zeros(head.shape.config.vocab_size, dtype=torch.bool)
        members[head.token_ids] = True
        tensors |= {"d2t": head.token_ids - torch.arange(len(head.token_ids)), "t2d": members}
    return tensors


def _write(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
