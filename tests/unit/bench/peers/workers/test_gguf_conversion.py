"""Conversion to GGUF: order of rows, metadata, reading safetensors, and what is written, with a fake of `gguf`."""

from __future__ import annotations

import enum
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from evodraft.bench.peers.workers import gguf_conversion
from evodraft.bench.peers.workers.gguf_conversion import (
    converted,
    metadata,
    permuted,
    planned,
    read_tensor,
    rope_factors,
    tensor_places,
)

SIZES = {
    "vocab_size": 32,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}


def llama3_rope() -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }


def saved(folder: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES, **options)).save_pretrained(folder)
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def interleaved_rope(rows: torch.Tensor, position: int, theta: float) -> torch.Tensor:
    """llama.cpp's rotation of the rows of one head, [head_size]: neighbours turn together."""
    size = rows.shape[0]
    angles = position * theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    even, odd = rows[0::2], rows[1::2]
    turned = torch.stack([even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()], dim=1)
    return turned.reshape(size)


def test_permuted_rows_rotated_as_llama_cpp_does_give_the_same_products_as_transformers() -> None:
    generator = torch.Generator().manual_seed(3)
    num_heads, size, hidden, theta = 2, 8, 6, 10000.0
    q_proj, k_proj = torch.randn(2, num_heads * size, hidden, generator=generator, dtype=torch.float64)
    inputs = torch.randn(2, hidden, generator=generator, dtype=torch.float64)  # at positions 5 and 9
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.tensor([5.0, 9.0], dtype=torch.float64), frequencies).repeat(1, 2)

    def heads(weight: torch.Tensor) -> torch.Tensor:  # [1, heads, positions, size]
        return (inputs @ weight.T).reshape(1, 2, num_heads, size).transpose(1, 2)

    queries, keys = apply_rotary_pos_emb(heads(q_proj), heads(k_proj), angles.cos()[None], angles.sin()[None])
    ours = [torch.from_numpy(permuted(weight.numpy(), num_heads)) for weight in (q_proj, k_proj)]
    for head in range(num_heads):
        rows = slice(head * size, (head + 1) * size)
        query = interleaved_rope(ours[0][rows] @ inputs[1], 9, theta)
        key = interleaved_rope(ours[1][rows] @ inputs[0], 5, theta)
        assert query @ key == pytest.approx(float(queries[0, head, 1] @ keys[0, head, 0]), rel=1e-12)


def test_metadata_says_what_the_config_says(tmp_path: Path) -> None:
    fields = metadata(config_of(saved(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 5e5})), [7, 9])
    assert fields["llama.block_count"] == 2
    assert fields["llama.context_length"] == 64
    assert fields["llama.embedding_length"] == 24
    assert fields["llama.feed_forward_length"] == 40
    assert (fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]) == (3, 1)
    assert fields["llama.attention.key_length"] == fields["llama.rope.dimension_count"] == 4
    assert fields["llama.attention.layer_norm_rms_epsilon"] == 1e-6
    assert fields["llama.rope.freq_base"] == 5e5
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (7, 9)
    assert "tokenizer.ggml.eom_token_id" not in fields


def test_a_config_of_transformers_4_means_the_same() -> None:
    older = {name: value for name, value in SIZES.items() if name not in ("head_dim", "num_key_value_heads")}
    fields = metadata(older | {"model_type": "llama", "rope_theta": 7.0, "rope_scaling": None}, [0])
    assert fields["llama.rope.freq_base"] == 7.0
    assert fields["llama.attention.head_count_kv"] == 3
    assert fields["llama.attention.key_length"] == 8
    scaling = llama3_rope()
    kind = scaling.pop("rope_type")
    factors = rope_factors(SIZES | {"rope_scaling": scaling | {"type": kind}})
    np.testing.assert_array_equal(factors, rope_factors(SIZES | {"rope_parameters": llama3_rope()}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "qwen3"}, "model_type = 'llama', not 'qwen3'"),
        ({"attention_bias": True}, "attention_bias = False, not True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = None"),
    ],
)
def test_other_models_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metadata(SIZES | {"model_type": "llama"} | changed, [0])


def test_too_many_ends_are_refused() -> None:
    with pytest.raises(ValueError, match="6 token ids at most"):
        metadata(SIZES | {"model_type": "llama"}, list(range(7)))


def test_rope_factors_are_those_of_transformers() -> None:
    config = LlamaConfig(**SIZES | {"head_dim": 32}, rope_parameters=llama3_rope())
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 10000.0 ** (-np.arange(0, 32, 2) / 32)
    factors = rope_factors(config.to_dict())
    assert factors is not None
    np.testing.assert_allclose(plain / factors, expected.numpy(), rtol=1e-6)
    assert len(set(np.round(factors, 3))) > 2, "the factors must not all be trivial"


def test_other_rotary_embeddings_are_refused() -> None:
    assert rope_factors(SIZES | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}) is None
    with pytest.raises(ValueError, match="not 'yarn'"):
        rope_factors(SIZES | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_are_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(3, 5).to(dtype)
    save_file({"first": torch.ones(2), "second": values}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    places = tensor_places(tmp_path)
    np.testing.assert_array_equal(read_tensor(places["second"]), values.float().numpy())
    np.testing.assert_array_equal(read_tensor(places["first"]), np.ones(2, dtype=np.float32))


def test_weights_of_other_types_or_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model\*\.safetensors"):
        tensor_places(tmp_path)
    save_file({"a": torch.ones(2, dtype=torch.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not F64"):
        read_tensor(tensor_places(tmp_path)["a"])


@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_has_a_place_in_the_file(tmp_path: Path, *, tied: bool) -> None:
    saved(tmp_path, tie_word_embeddings=tied)
    tensors = {tensor.name: tensor for tensor in planned(config_of(tmp_path), tensor_places(tmp_path), "bfloat16")}
    assert len(tensors) == 2 + 2 * 9 + (not tied)
    assert ("output.weight" in tensors) == (not tied)
    assert tensors["blk.1.attn_q.weight"].num_heads == 3
    assert tensors["blk.1.attn_k.weight"].num_heads == 1
    assert tensors["blk.1.attn_v.weight"].num_heads is None
    assert (tensors["token_embd.weight"].kind, tensors["blk.0.ffn_norm.weight"].kind) == ("BF16", "F32")


def test_missing_and_unknown_tensors_are_refused_and_derived_ones_ignored(tmp_path: Path) -> None:
    saved(tmp_path, tie_word_embeddings=True)
    config, places = config_of(tmp_path), tensor_places(tmp_path)
    any_place = places["model.norm.weight"]
    extra = {"lm_head.weight": any_place, "model.layers.0.self_attn.rotary_emb.inv_freq": any_place}
    assert planned(config, places | extra, "float32") == planned(config, places, "float32")
    with pytest.raises(ValueError, match=r"unknown \['model.layers.0.self_attn.q_norm.weight'\]"):
        planned(config, places | {"model.layers.0.self_attn.q_norm.weight": any_place}, "float32")
    del places["model.norm.weight"]
    with pytest.raises(ValueError, match=r"missing \['model.norm.weight'\]"):
        planned(config, places, "float32")


class Kind(enum.IntEnum):
    F32 = 0
    F16 = 1
    BF16 = 30


class FakeWriter:
    """Keeps what is written, and fails where the real one would."""

    written: dict[str, Any]

    def __init__(self, path: Path, architecture: str) -> None:
        assert architecture == "llama"
        self.path, self.fields, self.infos, self.data = path, dict[str, Any](), list[tuple[str, int, Kind]](), []
        self.add_bool = self.add_uint32 = self.add_float32 = self.fields.__setitem__
        for name in ("tokenizer_model", "tokenizer_pre", "token_list", "token_types", "token_merges"):
            setattr(self, f"add_{name}", lambda value, name=name: self.fields.__setitem__(name, value))
        self.write_header_to_file = self.write_kv_data_to_file = self.write_ti_data_to_file = lambda: None

    def add_tensor_info(self, name: str, shape: Any, dtype: Any, num_bytes: int, raw_dtype: Any = Kind.F32) -> None:
        assert dtype == np.float32
        assert num_bytes == math.prod(shape) * (4 if raw_dtype is Kind.F32 else 2)
        self.infos.append((name, num_bytes, raw_dtype))

    def write_tensor_data(self, values: np.ndarray) -> None:
        assert values.nbytes == self.infos[len(self.data)][1], "data in the order in which they were announced"
        self.data.append(values)

    def close(self) -> None:
        names = [name for name, _, _ in self.infos]
        FakeWriter.written = self.fields | dict(zip(names, self.data, strict=True))
        self.path.write_bytes(b"GGUF")


def quantize(values: np.ndarray, kind: Kind) -> np.ndarray:
    return values if kind is Kind.F32 else torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        GGUFWriter=FakeWriter,
        GGMLQuantizationType=Kind,
        GGML_QUANT_SIZES={Kind.F32: (1, 4), Kind.F16: (1, 2), Kind.BF16: (1, 2)},
        TokenType=SimpleNamespace(NORMAL="normal", CONTROL="control"),
        quants=SimpleNamespace(quantize=quantize),
    )
    monkeypatch.setitem(sys.modules, "gguf", fake)


@pytest.mark.usefixtures("gguf")
def test_the_file_holds_the_weights_the_ends_and_placeholders_for_texts(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", rope_parameters=llama3_rope())
    file = converted(folder, "float32", [5, 31], tmp_path / "cache")
    assert file.read_bytes() == b"GGUF"
    written = FakeWriter.written
    assert written["token_list"][:2] == ["t0", "t1"]
    assert len(written["token_list"]) == 32
    assert [number for number, kind in enumerate(written["token_types"]) if kind == "control"] == [5, 31]
    weights = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    source = weights["model.layers.1.self_attn.q_proj.weight"].numpy()
    np.testing.assert_array_equal(written["blk.1.attn_q.weight"], permuted(source, 3))
    np.testing.assert_array_equal(written["blk.0.ffn_up.weight"], weights["model.layers.0.mlp.up_proj.weight"])
    np.testing.assert_array_equal(written["rope_freqs.weight"], rope_factors(config_of(folder)))


@pytest.mark.usefixtures("gguf")
@pytest.mark.parametrize(("eos_token_ids", "kind"), [([5], "gpt2"), ([], "rwkv")])
def test_without_ends_the_file_names_none_and_neither_does_its_vocabulary(
    tmp_path: Path, eos_token_ids: list[int], kind: str
) -> None:
    converted(saved(tmp_path / "model"), "float32", eos_token_ids, tmp_path / "cache")
    written = FakeWriter.written
    named = {key: value for key, value in written.items() if key.startswith("tokenizer.ggml.") and key.endswith("_id")}
    assert named == {f"tokenizer.ggml.{key}_token_id": 5 for key in ("bos", "eos") if eos_token_ids}
    assert written["tokenizer_model"] == kind
    assert written["token_types"].count("control") == len(eos_token_ids)


@pytest.mark.usefixtures("gguf")
def test_a_file_is_made_once_for_the_same_weights_type_and_ends(tmp_path: Path) -> None:
    folder, cache = saved(tmp_path / "model"), tmp_path / "cache"
    first = converted(folder, "bfloat16", [5], cache)
    assert FakeWriter.written["token_embd.weight"].dtype == np.uint16
    first.write_bytes(b"as it was")
    assert converted(folder, "bfloat16", [5], cache) == first
    assert first.read_bytes() == b"as it was"
    others = {converted(folder, "bfloat16", [6], cache), converted(folder, "float32", [5], cache)}
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    others.add(converted(folder, "bfloat16", [5], cache))
    assert len(others | {first}) == 4
    assert {path.suffix for path in cache.iterdir()} == {".gguf"}


def test_nothing_stays_behind_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, *rest: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(gguf_conversion, "_write", broken)
    with pytest.raises(OSError, match="disk full"):
        converted(saved(tmp_path / "model"), "float32", [5], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
