"""The head that training begins with: shaped like a layer of the target, filled from its last one where that fits.

Does not know training, files or taps beyond their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import LlamaConfig

from evodraft.drafters.eagle.head import EagleHead, EagleShape, published_taps
from evodraft.errors import TrainingError
from evodraft.training.observe import embedding_matrix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SIZES: Final = (
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
)
_SAME_NAMES: Final = (
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "post_attention_layernorm.weight",
)
_PROJECTIONS: Final = tuple(f"self_attn.{name}_proj.weight" for name in "qkv")


def new_head(target: PreTrainedModel, taps: tuple[int, ...] | None = None, seed: int = 0) -> EagleHead:
    """A float32 head of the target's width; weights are copies, nothing is shared.

    Features begin as the highest tap. Weights without a counterpart of the same name and shape stay random, depending
    on `seed` only; those that read the token begin at zero beside a copied one.

    >>> from evodraft.testing.tiny import tiny_model
    >>> new_head(tiny_model("llama"), taps=(0, 1, 2)).shape.taps
    (0, 1, 2)
    """
    config = target.config.get_text_config(decoder=True)
    shape = EagleShape(_layer_config(target), config.hidden_size, _taps(config.num_hidden_layers, taps))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        head = EagleHead(shape).float()
        _fill(head, {name: value.float().cpu() for name, value in _last_layer(target).items()})
    return head.to(target.device)


def _taps(num_layers: int, taps: tuple[int, ...] | None) -> tuple[int, ...]:
    chosen = published_taps(num_layers) if taps is None else taps
    if not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] > num_layers:
        raise TrainingError(
            f"taps {chosen} are not ascending layers within 0 .. {num_layers} of the target; name others"
        )
    return tuple(chosen)


def _layer_config(target: PreTrainedModel) -> LlamaConfig:
    config = target.config.get_text_config(decoder=True)
    vocab_size, hidden_size = embedding_matrix(target).shape
    heads = config.num_attention_heads
    known: dict[str, Any] = {"intermediate_size": 4 * hidden_size, "head_dim": hidden_size // heads}
    known |= {name: value for name in _SIZES if (value := getattr(config, name, None)) is not None}
    rotary = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" in rotary:  # one table for all layers
        known["rope_parameters"] = dict(rotary)
    return LlamaConfig(num_hidden_layers=1, hidden_size=hidden_size, vocab_size=vocab_size, **known)


def _last_layer(target: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Weights of the last layer and the final norm under the names that Llama gives them, as far as there are."""
    config = target.config.get_text_config(decoder=True)
    prefix = f"layers.{config.num_hidden_layers - 1}."
    weights = target.base_model.state_dict()
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return found | ({"norm.weight": weights["norm.weight"]} if "norm.weight" in weights else {})


def _fill(head: EagleHead, source: dict[str, torch.Tensor]) -> None:
    hidden, own = head.shape.config.hidden_size, head.midlayer.state_dict()
    head.fc.weight.zero_()
    head.fc.weight[:, -hidden:] = torch.eye(hidden)
    pairs = {name: name for name in _SAME_NAMES} | {"hidden_norm.weight": "input_layernorm.weight"}
    copies = [(own[name], source.get(other)) for name, other in pairs.items()]
    copies.append((head.norm.weight, source.get("norm.weight")))
    for name in _PROJECTIONS:
        if name in source and source[name].shape == own[name][:, hidden:].shape:
            own[name][:, :hidden] = 0
            copies.append((own[name][:, hidden:], source[name]))
    for mine, theirs in copies:
        if theirs is not None and theirs.shape == mine.shape:
            mine.copy_(theirs)
