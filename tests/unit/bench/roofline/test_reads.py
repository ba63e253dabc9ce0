"""Bytes that a token reads, against counts made by hand."""

from __future__ import annotations

import pytest
import torch

from evodraft.bench.roofline.reads import read_cache_bytes, read_weights
from evodraft.errors import BenchError
from evodraft.testing.tiny import tiny_model

# tiny llama: 2 layers, hidden 32, 4 heads and 2 key-value heads of 8, intermediate 48; float32
_LAYER = 32 * 32 + 2 * (16 * 32) + 32 * 32 + 3 * (48 * 32)
_MATRICES = 4 * 2 * _LAYER
_VECTORS = 4 * 32 * (2 * 2 + 1)  # two norms per layer and the last one


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_tied_head_counts_as_head_and_an_untied_embedding_not_at_all(is_tied: bool) -> None:
    model = tiny_model("llama", vocab_size=64, tie_word_embeddings=is_tied)
    read = read_weights(model).count(cache_bytes=100)
    assert (read.matrices, read.head, read.vectors, read.cache) == (_MATRICES, 4 * 64 * 32, _VECTORS, 100)
    assert read.total == _MATRICES + 4 * 64 * 32 + _VECTORS + 100


def test_half_precision_reads_half() -> None:
    model = tiny_model("llama", vocab_size=64)
    full = read_weights(model).count().total
    assert read_weights(model.bfloat16()).count().total == full // 2


def test_the_head_is_read_last_and_nothing_is_copied() -> None:
    model = tiny_model("llama", vocab_size=64)
    in_order = read_weights(model).in_order()
    assert in_order[-1].data_ptr() == model.lm_head.weight.data_ptr()
    assert in_order[0].data_ptr() == model.model.layers[0].self_attn.q_proj.weight.data_ptr()
    assert len(in_order) == 2 * 7 + 1


def test_tables_of_positions_are_looked_up_not_read() -> None:
    model = tiny_model("gpt2", vocab_size=64)
    shapes = [tuple(matrix.shape) for matrix in read_weights(model).matrices]
    assert (256, 32) not in shapes  # gpt2's positions
    assert len(shapes) == 2 * 4


def test_keys_and_values_of_the_context() -> None:
    # 2 layers x (keys and values) x 2 heads x 8 numbers x 4 bytes
    assert read_cache_bytes(tiny_model("llama"), context=10) == 10 * 2 * 2 * 2 * 8 * 4


def test_experts_are_refused() -> None:
    with pytest.raises(BenchError, match="experts.*pass a dense model"):
        read_weights(tiny_model("mixtral"))


def test_quantised_weights_are_refused() -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.ones(48, 32, dtype=torch.int8), False)
    with pytest.raises(BenchError, match=r"torch\.int8 are quantised"):
        read_weights(model)


@pytest.mark.parametrize("is_everything_away", [True, False])
def test_weights_elsewhere_are_refused(is_everything_away: bool) -> None:
    model = tiny_model("llama")
    (model if is_everything_away else model.model.layers[1]).to("meta")
    with pytest.raises(BenchError, match="meta; the roofline measures one device"):
        read_weights(model)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(BenchError, match="LlamaModel has no head"):
        read_weights(tiny_model("llama").model)
