"""What a transformers model must offer so that drafts can be scored and taken back, read off before it runs.

Facts come from the config and the signature of `forward`, never from class names. What they cannot tell, the
start-up check finds out by running the model (see check.py).

This module does not run models.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evodraft.errors import CapacityError, UnsupportedModelError
from evodraft.runtime.masks import LayerKind, layer_kinds

_NEEDED_PARAMETERS = ("position_ids", "past_key_values", "attention_mask")
_MASKABLE_ATTENTION = ("sdpa", "eager")  # these take a ready 4D mask
_MOVING_ROPE = ("dynamic", "longrope")  # frequencies depend on the longest row, so neighbours would disturb each other


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the runtime needs to know about a model."""

    model_type: str
    num_layers: int
    vocab_size: int
    context_length: int | None  # None if the config does not say
    kinds: tuple[LayerKind, ...]
    unproven_window: int | None  # a window that all layers have or none, whatever the config says
    additive: torch.dtype | None  # dtype of an additive mask, None if the attention takes boolean ones
    device: torch.device  # of the token ids
    dtype: torch.dtype  # that the model computes in
    bytes_per_token: int  # keys and values of one position in all layers, as the config describes them
    has_logits_to_keep: bool

    @classmethod
    def of(cls, model: torch.nn.Module) -> ModelFacts:
        """Reads them off. Raises UnsupportedModelError if the model cannot take tokens back."""
        base = innermost(model)
        config = _text_config(base)
        _refuse_state(base, config)
        parameters = _forward_parameters(base, config)
        embedding = base.get_input_embeddings().weight
        kinds = layer_kinds(config)
        dtype = embedding.dtype if embedding.dtype.is_floating_point else torch.get_default_dtype()
        return cls(
            model_type=config.model_type,
            num_layers=config.num_hidden_layers,
            vocab_size=_vocab_size(base, config),
            context_length=_context_length(config),
            kinds=kinds,
            unproven_window=_unproven_window(config, kinds),
            additive=_additive(config, dtype),
            device=torch.device("cpu") if embedding.is_meta else embedding.device,
            dtype=dtype,
            bytes_per_token=_bytes_per_token(config, dtype),
            has_logits_to_keep="logits_to_keep" in parameters,
        )


def innermost(model: torch.nn.Module) -> Any:
    """The transformers model inside wrappers of peft and torch.compile."""
    unwrap = getattr(model, "get_base_model", None)
    if callable(unwrap):
        return innermost(unwrap())
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else innermost(compiled)


def resolve_max_length(facts: ModelFacts, max_length: int | None, num_slots: int, kv_cache_bytes: int | None) -> int:
    """Tokens per slot: what was asked for if it fits, else as many as context and memory allow."""
    if num_slots < 1:
        raise CapacityError(f"num_slots={num_slots} is below 1; a decoder needs at least one slot; raise num_slots")
    limits = dict(_length_limits(facts, num_slots, kv_cache_bytes))
    if max_length is not None:
        for reason, limit in limits.items():
            if max_length > limit:
                raise CapacityError(f"max_length={max_length} exceeds {limit}, {reason}")
        limits = {"": max_length}
    if not limits:
        raise CapacityError(f"the config of model type {facts.model_type!r} names no context length; pass max_length")
    reason, least = min(limits.items(), key=lambda item: item[1])
    if least < 1:
        raise CapacityError(
            f"a slot would hold {least} tokens and must hold at least 1: {reason or 'raise max_length'}"
        )
    return least


def _length_limits(facts: ModelFacts, num_slots: int, kv_cache_bytes: int | None) -> Iterator[tuple[str, int]]:
    if facts.context_length is not None:
        yield "the context of the model; lower max_length", facts.context_length
    if kv_cache_bytes is not None:
        fits = kv_cache_bytes // (num_slots * facts.bytes_per_token)
        yield (
            f"what kv_cache_bytes={kv_cache_bytes} holds for {num_slots} slots at {facts.bytes_per_token} bytes per "
            "token; raise the budget, or lower max_length or num_slots",
            fits,
        )


def _text_config(base: Any) -> Any:
    config = getattr(base, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise UnsupportedModelError(
            f"{type(base).__name__} has no transformers config; only transformers 5.x causal language models can be "
            "decoded; pass one loaded with AutoModelForCausalLM"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"model type {config.model_type!r} is an encoder-decoder; only decoder-only models can be decoded; "
            "choose a causal language model"
        )
    return config.get_text_config(decoder=True)


def _refuse_state(base: Any, config: Any) -> None:
    if getattr(base, "_is_stateful", False):
        raise UnsupportedModelError(
            f"model type {config.model_type!r} keeps a recurrent state that cannot be rolled back to an earlier "
            "token, and rejected drafts must be taken back; use a model with attention layers only"
        )


def _forward_parameters(base: Any, config: Any) -> Mapping[str, inspect.Parameter]:
    parameters = inspect.signature(base.forward).parameters
    missing = [name for name in _NEEDED_PARAMETERS if name not in parameters]
    if missing:
        raise UnsupportedModelError(
            f"forward of model type {config.model_type!r} has no parameter {', '.join(missing)}; ragged batches need "
            f"{', '.join(_NEEDED_PARAMETERS)}; use an architecture whose forward takes them"
        )
    return parameters


def _vocab_size(base: Any, config: Any) -> int:
    head = base.get_output_embeddings()
    size = getattr(head, "out_features", None)
    return int(config.vocab_size if size is None else size)


def _context_length(config: Any) -> int | None:
    """The config's context; the original one where a model changes its rotary frequencies beyond it."""
    length = getattr(config, "max_position_embeddings", None)
    for rope in _rope_parameters(config):
        if rope.get("rope_type") in _MOVING_ROPE:
            original = rope.get("original_max_position_embeddings") or length
            length = original if length is None else min(length, original)
    return length


def _rope_parameters(config: Any) -> list[Mapping[str, Any]]:
    rope = getattr(config, "rope_parameters", None) or {}
    per_kind = [value for value in rope.values() if isinstance(value, Mapping)]
    return per_kind or [rope]


def _unproven_window(config: Any, kinds: tuple[LayerKind, ...]) -> int | None:
    """Some architectures look at sliding_window alone, some at layer_types, some at neither. Only where the kinds of
    layers differ must the model have read them: a mask for each of them means nothing to the others."""
    if len(kinds) > 1 or kinds[0].chunk is not None:
        return None
    return getattr(config, "sliding_window", None) or None


def _additive(config: Any, dtype: torch.dtype) -> torch.dtype | None:
    attention = config._attn_implementation
    if attention not in _MASKABLE_ATTENTION:
        raise UnsupportedModelError(
            f"attn_implementation={attention!r} does not take a ready mask, which ragged batches need; load the model "
            f"with one of {', '.join(_MASKABLE_ATTENTION)}"
        )
    return dtype if attention == "eager" else None


def _bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        num_kv_heads = 1  # falcon, whose newer architecture repeats them before it caches them
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    num_bytes = int(config.num_hidden_layers * 2 * num_kv_heads * head_dim * dtype.itemsize)
    if num_bytes < 1:
        raise UnsupportedModelError(
            f"the config of model type {config.model_type!r} has {config.num_hidden_layers} layers of {num_kv_heads} "
            f"heads of {head_dim} numbers, and at least 1 of each is needed; repair config.json"
        )
    return num_bytes
