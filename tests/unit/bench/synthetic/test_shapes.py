"""Shapes of real models have the parameters of the real models; nothing is allocated."""

from __future__ import annotations

import pytest
import torch

from evodraft.bench.synthetic.shapes import SHAPES, shape_of
from evodraft.errors import UnknownOptionError
from evodraft.runtime.load import empty_model
from evodraft.runtime.support import ModelFacts


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("qwen3-4b", 4_022_468_096),
        ("llama-350m", 348_701_696),
        ("llama-100m", 95_534_720),
    ],
)
def test_parameters(name: str, num_parameters: int) -> None:
    model = empty_model(SHAPES[name].config(), torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == num_parameters


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_can_be_decoded_and_ends_nowhere(name: str) -> None:
    config = SHAPES[name].config(2)
    facts = ModelFacts.of(empty_model(config, torch.bfloat16))
    assert facts.num_layers == 2
    assert facts.vocab_size == SHAPES[name].sizes["vocab_size"]
    assert config.eos_token_id is None


def test_an_unknown_shape_names_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="did you mean 'qwen3-4b'"):
        shape_of("qwen3-4")
