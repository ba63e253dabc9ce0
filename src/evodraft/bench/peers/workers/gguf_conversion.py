"""Hugging Face Llama folders as GGUF files for llama.cpp, unquantised. Knows no server and no benchmark.

Only token ids go in and out, so the file's vocabulary holds placeholders instead of texts: llama.cpp ends an output at
ids whose text looks like an end of turn to it, and so ends exactly at the ids that are asked for.

Runs in the peer's environment; only `converted` needs the `gguf` package.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TYPES: Final[Mapping[str, str]] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_SOURCE_TYPES: Final[Mapping[str, str]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WHOLE_MODEL: Final = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
_LAYER: Final[Mapping[str, str]] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_UNUSED: Final = ("rotary_emb.inv_freq", "lm_head.weight")  # derived, or tied: transformers does not read them either
# llama.cpp ends an output at each of these; the last three are meant for other uses, which are not made here
_END_KEYS: Final = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_REQUIRED: Final[Mapping[str, Any]] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
}


class Place(NamedTuple):
    """Where a tensor lies on the disk."""

    path: Path
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    offset: int


class Planned(NamedTuple):
    """What becomes of a tensor."""

    name: str  # llama.cpp's
    kind: str  # GGUF's
    place: Place
    num_heads: int | None  # of a projection whose rows are put in llama.cpp's order


def converted(folder: Path, dtype: str, eos_token_ids: Sequence[int], cache: Path) -> Path:
    """The GGUF file of a model, from `cache` if the same weights were converted before.

    Args:
        folder: config.json and safetensors of a LlamaForCausalLM.
        dtype: of the matrices; norms are float32 as llama.cpp wants them.
        eos_token_ids: ids that end an output; six at most.
        cache: folder of converted files, made if missing.

    Raises ValueError for models that this conversion does not cover.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields = metadata(config, eos_token_ids)
    tensors = planned(config, tensor_places(folder), dtype)
    file = cache / f"{_digest(folder, tensors, dtype, eos_token_ids)}.gguf"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        try:
            _write(unfinished, fields, rope_factors(config), tensors)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    return file


def metadata(config: Mapping[str, Any], eos_token_ids: Sequence[int]) -> dict[str, Any]:
    """GGUF's keys and values for a Llama config; raises ValueError for what it does not cover."""
    for name, value in _REQUIRED.items():
        if config.get(name, value) != value:
            raise ValueError(f"conversion to GGUF covers Llama with {name} = {value!r}, not {config[name]!r}")
    if len(eos_token_ids) > len(_END_KEYS):
        raise ValueError(f"llama.cpp ends at {len(_END_KEYS)} token ids at most, not at {list(eos_token_ids)}")
    values = {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": num_kv_heads(config),
        "llama.attention.key_length": head_size(config),
        "llama.attention.value_length": head_size(config),
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.rope.dimension_count": head_size(config),
        "llama.rope.freq_base": float(_rope(config)["rope_theta"]),
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.add_bos_token": False,
    }
    ends = dict(zip(_END_KEYS, eos_token_ids, strict=False))
    beginning = {"bos": eos_token_ids[0]} if ends else {}  # never put in front of anything
    return values | {f"tokenizer.ggml.{key}_token_id": token_id for key, token_id in (beginning | ends).items()}


def head_size(config: Mapping[str, Any]) -> int:
    """Width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def num_kv_heads(config: Mapping[str, Any]) -> int:
    """Heads of keys and values."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def rope_factors(config: Mapping[str, Any]) -> Floats | None:
    """By what llama.cpp divides each rotation frequency, [head_size / 2]; None = plain rotary embeddings.

    The rule of Llama 3.1, as transformers has it; raises ValueError for other rules.
    """
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"conversion to GGUF covers the rotary embeddings 'default' and 'llama3', not {kind!r}")
    size, factor = head_size(config), rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    turns = rope["original_max_position_embeddings"] / wavelengths
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)  # 1 = unchanged, 0 = divided by the whole factor
    return np.asarray(1.0 / ((1.0 - share) / factor + share), dtype=np.float32)


def permuted(weight: Floats, num_heads: int) -> Floats:
    """Rows of a query or key projection, [heads * head_size, hidden], in the order llama.cpp rotates them.

    transformers turns row i of a head together with row i + half, llama.cpp neighbouring rows.

    >>> permuted(np.arange(4, dtype=np.float32)[:, None], 1).ravel().tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    return weight.reshape(num_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def planned(config: Mapping[str, Any], places: Mapping[str, Place], dtype: str) -> list[Planned]:
    """What becomes of each tensor of the folder; raises ValueError if some are missing or unknown."""
    names = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in _WHOLE_MODEL.items()}
    if not config.get("tie_word_embeddings", False):
        names["lm_head.weight"] = "output.weight"
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in _LAYER.items():
            names[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{ours}.weight"
    used = {name for name in places if name in names or not name.endswith(_UNUSED)}
    if names.keys() != used:
        missing, unknown = sorted(names.keys() - used), sorted(used - names.keys())
        raise ValueError(f"tensors do not fit a Llama: missing {missing[:3]}, unknown {unknown[:3]}")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": num_kv_heads(config)}
    return [
        Planned(
            name=ours,
            kind=TYPES[dtype] if len(places[theirs].shape) > 1 else "F32",
            place=places[theirs],
            num_heads=heads.get(ours.split(".")[-2]),
        )
        for theirs, ours in names.items()
    ]


def tensor_places(folder: Path) -> dict[str, Place]:
    """All tensors in the safetensors files of `folder`; raises ValueError if there are none."""
    places = {name: place for path in sorted(folder.glob("model*.safetensors")) for name, place in _places_in(path)}
    if not places:
        raise ValueError(f"no model*.safetensors in {folder}")
    return places


def read_tensor(place: Place) -> Floats:
    """The values of a tensor; every bfloat16 and float16 is a float32, so nothing is lost."""
    kind = _SOURCE_TYPES.get(place.dtype)
    if kind is None:
        raise ValueError(f"conversion to GGUF covers {', '.join(_SOURCE_TYPES)} weights, not {place.dtype}")
    with place.path.open("rb") as file:
        file.seek(place.offset)
        values = np.fromfile(file, dtype=kind, count=math.prod(place.shape)).reshape(place.shape)
    if place.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _places_in(path: Path) -> Iterator[tuple[str, Place]]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, Place(path, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    older = {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}
    return config.get("rope_parameters") or older


def _digest(folder: Path, tensors: Sequence[Planned], dtype: str, eos_token_ids: Sequence[int]) -> str:
    """Of everything the converted file depends on, this conversion included."""
    digest = hashlib.sha256(json.dumps([dtype, list(eos_token_ids)]).encode())
    for path in (Path(__file__), folder / "config.json", *sorted({tensor.place.path for tensor in tensors})):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _write(path: Path, fields: Mapping[str, Any], factors: Floats | None, tensors: Sequence[Planned]) -> None:
    gguf = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    _write_fields(writer, gguf, fields)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        num_bytes = math.prod(tensor.place.shape) * gguf.GGML_QUANT_SIZES[kind][1]
        writer.add_tensor_info(tensor.name, tensor.place.shape, np.dtype(np.float32), num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in tensors:  # one after the other, so that memory holds one of them
        values = read_tensor(tensor.place)
        if tensor.num_heads is not None:
            values = permuted(values, tensor.num_heads)
        writer.write_tensor_data(gguf.quants.quantize(values, gguf.GGMLQuantizationType[tensor.kind]))
    writer.close()


def _write_fields(writer: Any, gguf: Any, fields: Mapping[str, Any]) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in fields.items():
        adders[type(value)](key, value)
    ends = {fields.get(f"tokenizer.ggml.{key}_token_id") for key in _END_KEYS} - {None}
    kinds, vocab_size = gguf.TokenType, fields["llama.vocab_size"]
    writer.add_tokenizer_model("gpt2" if ends else "rwkv")  # the one that has no end token unless the file names one
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{token_id}" for token_id in range(vocab_size)])
    writer.add_token_types([kinds.CONTROL if token_id in ends else kinds.NORMAL for token_id in range(vocab_size)])
    writer.add_token_merges(["t 0"])
