"""What the config.json of a head says, in the layouts in which heads are published.

All layouts hold the same arithmetic under other names. What would be another arithmetic is refused by name: run as if
it were this one, it would draft nonsense and nobody would notice. Knows no tensors and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from transformers import LlamaConfig

from evodraft.drafters.eagle.head import NUM_TAPS, EagleHead
from evodraft.drafters.eagle.origin import Origin
from evodraft.errors import UnsupportedModelError, WeightsError

Config = Mapping[str, Any]

OWN_BLOCK: Final = "evodraft"  # what we write into config.json beside the published keys
OWN_FORMAT: Final = 1  # of that block
_FIXED_ROPE: Final = ("default", "linear", "llama3", "yarn")  # frequencies that do not depend on the length
_LAYER_KEYS: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "max_position_embeddings",
    "attention_bias",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
)
_NEEDED_KEYS: Final = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
_LARGEST_SIZE: Final = 2**24  # of any dimension: a damaged config must not ask for all memory


@dataclass(frozen=True, slots=True)
class HeadDescription:
    """What a config says about a head."""

    layout: str
    layer: LlamaConfig
    target_hidden_size: int
    taps: tuple[int, ...] | None  # as the decoder counts them; None = the published ones of its target
    norm_before_residual: bool
    draft_vocab_size: int | None  # None = not said
    target: str | None = None  # name of the target, for messages
    origin: Origin | None = None  # of the target, where the head was written by us


class Layout(NamedTuple):
    """A way to publish heads."""

    recognise: Callable[[Config], bool]
    layer_of: Callable[[Config], Config]  # the part that describes the decoder layer
    norm_before_residual: Callable[[Config], bool | None]  # None: it must be said and is not
    target_of: Callable[[Config], str | None]


def _block(config: Config, key: str) -> Config:
    """A part of a config that may be missing or null."""
    found: Config = config.get(key) or {}
    return found


def _published_target(config: Config) -> str | None:
    name = _block(_block(config, "speculators_config"), "verifier").get("name_or_path")
    return None if name is None else str(name)


def _own_target(config: Config) -> str | None:
    name = _block(config, OWN_BLOCK).get("target_name")
    return None if name is None else str(name)


LAYOUTS: Final[Mapping[str, Layout]] = {
    "evodraft": Layout(
        recognise=lambda config: OWN_BLOCK in config,
        layer_of=lambda config: config,
        norm_before_residual=lambda config: config.get("norm_before_residual") or False,
        target_of=_own_target,
    ),
    "speculators": Layout(
        recognise=lambda config: "speculators_model_type" in config,
        layer_of=lambda config: config["transformer_layer_config"],
        # its library and vLLM fill a missing one differently
        norm_before_residual=lambda config: config.get("norm_before_residual"),
        target_of=_published_target,
    ),
    "published": Layout(
        recognise=lambda config: True,
        layer_of=lambda config: config,
        norm_before_residual=lambda config: config.get("norm_before_residual") or False,
        target_of=lambda config: None,
    ),
}

_SWITCHES: Final[Mapping[str, str]] = {  # keys that must not be set -> what they would do
    "norm_before_fc": "normalises the taps before they are fused",
    "fc_norm": "normalises each tap before they are fused",
    "norm_output": "feeds back normed states",
    "mlp_bias": "adds biases in the MLP",
    "parallel_drafting": "drafts all tokens in one pass",
    "quantization_config": "stores quantised weights",
}


def describe(config: Config, place: str) -> HeadDescription:
    """What a config says. `place` is where it was read, for messages.

    Raises UnsupportedModelError for heads that compute something else, and WeightsError for a damaged config.

    >>> layer = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    >>> describe({**layer, "eagle_aux_hidden_state_layer_ids": [2, 4, 5]}, "here").taps
    (2, 4, 5)
    """
    name = next(name for name, layout in LAYOUTS.items() if layout.recognise(config))
    try:
        return _described(name, LAYOUTS[name], config, place)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsError(
            f"config.json of {place} is no description of an EAGLE-3 head ({type(error).__name__}: {error}); copy or "
            "download it again"
        ) from error


def describe_head(head: EagleHead) -> HeadDescription:
    """The same of a head that is loaded."""
    shape = head.shape
    return HeadDescription(
        layout="object",
        layer=shape.config,
        target_hidden_size=shape.target_hidden_size,
        taps=shape.taps,
        norm_before_residual=shape.norm_before_residual,
        draft_vocab_size=shape.draft_vocab_size,
    )


def _described(name: str, layout: Layout, config: Config, place: str) -> HeadDescription:
    layer = layout.layer_of(config)
    _refuse_others(config, layer, place)
    llama = _llama_config(layer, place)
    is_normed_first = layout.norm_before_residual(config)
    if is_normed_first is None:
        raise UnsupportedModelError(
            f"config.json of {place} does not say norm_before_residual, which readers of this layout fill differently; "
            "write true or false into it as the head was trained"
        )
    if not isinstance(is_normed_first, bool):
        raise ValueError(f"norm_before_residual is {is_normed_first!r}, neither true nor false")
    draft_vocab_size = config.get("draft_vocab_size")
    own = _block(config, OWN_BLOCK)
    if (written := own.get("format", OWN_FORMAT)) != OWN_FORMAT:
        raise UnsupportedModelError(
            f"{place} was written in format {written!r} and this version reads {OWN_FORMAT}; upgrade evodraft"
        )
    return HeadDescription(
        layout=name,
        layer=llama,
        target_hidden_size=_size(config.get("target_hidden_size") or llama.hidden_size),
        taps=_taps(config, place),
        norm_before_residual=is_normed_first,
        draft_vocab_size=None if draft_vocab_size is None else _size(draft_vocab_size),
        target=layout.target_of(config),
        origin=Origin.parse(own["target"]) if own.get("target") else None,
    )


def _refuse_others(config: Config, layer: Config, place: str) -> None:
    for reason in _differences(config, layer):
        raise UnsupportedModelError(
            f"{place} {reason}; heads that can be read have one Llama layer behind three fused taps (docs/heads.md)"
        )


def _differences(config: Config, layer: Config) -> Iterable[str]:
    """What an EAGLE-3 head of the paper does not do."""
    kind = config.get("speculators_model_type", "eagle3")
    if kind != "eagle3":
        yield f"is a speculator of type {kind!r}"
    for key, meaning in _SWITCHES.items():
        if config.get(key) or layer.get(key):
            yield f"has {key} set, which {meaning}"
    if "model" in config:  # vLLM's wrapper around heads of the first two papers
        yield "wraps a config of EAGLE-1 or EAGLE-2"
    if _block(config, "eagle_config").get("use_aux_hidden_state") is False:
        yield "reads the last hidden state alone (use_aux_hidden_state is false), as EAGLE-1 and EAGLE-2 do"
    if (num_layers := layer.get("num_hidden_layers", 1)) != 1:
        yield f"has num_hidden_layers={num_layers}"
    if (model_type := layer.get("model_type", "llama")) != "llama":
        yield f"has a layer of model type {model_type!r}"
    if (activation := layer.get("hidden_act", "silu")) != "silu":
        yield f"has hidden_act={activation!r}"
    if set(layer.get("layer_types") or ()) - {"full_attention"}:
        yield f"has layer_types={layer['layer_types']}"


def _llama_config(layer: Config, place: str) -> LlamaConfig:
    for key in _NEEDED_KEYS:
        _size(layer[key])
    for key in ("num_key_value_heads", "head_dim"):
        if layer.get(key) is not None:
            _size(layer[key])
    chosen = {key: layer[key] for key in _LAYER_KEYS if layer.get(key) is not None}
    try:
        config = LlamaConfig(**chosen, num_hidden_layers=1, bos_token_id=None, eos_token_id=None)
    except Exception as error:  # its checks raise what they like
        raise WeightsError(
            f"transformers cannot use the config.json of {place}: {str(error).strip().partition(chr(10))[0]}; copy or "
            "download it again"
        ) from error
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope not in _FIXED_ROPE:
        raise UnsupportedModelError(
            f"{place} has rope type {rope!r}, the limits are {', '.join(_FIXED_ROPE)}; take another head"
        )
    if config.num_attention_heads % (config.num_key_value_heads or config.num_attention_heads):
        raise ValueError(f"{config.num_attention_heads} heads share {config.num_key_value_heads} key-value heads")
    return config


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST_SIZE:
        raise ValueError(f"{value!r} is no size from 1 to {_LARGEST_SIZE}")
    return value


def _taps(config: Config, place: str) -> tuple[int, ...] | None:
    """As the decoder counts them: tap i is the state after i layers. Trainers count layers from 0 instead."""
    named: Sequence[tuple[object, int]] = (
        (_block(config, OWN_BLOCK).get("taps"), 0),
        (config.get("eagle_aux_hidden_state_layer_ids"), 0),  # speculators and vLLM
        (_block(config, "eagle_config").get("eagle_aux_hidden_state_layer_ids"), 1),  # SpecForge and SGLang
        (config.get("aux_hidden_states_layer_ids"), 1),  # AngelSlim
    )
    ids, shift = next(((ids, shift) for ids, shift in named if ids), ((), 0))
    if not ids:
        return None
    if not isinstance(ids, list) or len(ids) != NUM_TAPS or not all(isinstance(one, int) for one in ids):
        raise UnsupportedModelError(
            f"{place} names the taps {ids!r}; an EAGLE-3 head reads {NUM_TAPS} layers of its target; take another head"
        )
    return tuple(one + shift for one in ids)
