"""A tiny target and a draft model that agrees with it now and then.

Two random models hardly ever agree, so no test of theirs sees an accepted block. Here the draft is the target with
noise on its weights: more than half of what it says is accepted, and greedy texts are varied.

This module does not know decoders, drafters or engines.
"""

from __future__ import annotations

import copy
from typing import Any, Final, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

PADDED_VOCAB_SIZE: Final = 264  # the byte tokenizer has 257 ids; real models pad too


class TinyPair(NamedTuple):
    """Target and draft speak the same tokens."""

    target: PreTrainedModel
    draft: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def tiny_pair(family: str = "llama", *, seed: int = 5, noise: float = 0.1, **changes: Any) -> TinyPair:
    """A pair of one family; `changes` go into the config of both.

    >>> pair = tiny_pair("gpt2")
    >>> pair.target.config.vocab_size - len(pair.tokenizer)
    7
    """
    target = tiny_model(family, **{"vocab_size": PADDED_VOCAB_SIZE, "seed": seed, **changes})
    return TinyPair(target, noisy_copy(target, noise, seed), byte_tokenizer())


def noisy_copy(model: PreTrainedModel, noise: float, seed: int = 0) -> PreTrainedModel:
    """A copy whose matrices differ by `noise` times their usual size; 0 = the same model."""
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.ndim > 1:
                scale = noise * parameter.shape[-1] ** -0.5
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
    return copied
