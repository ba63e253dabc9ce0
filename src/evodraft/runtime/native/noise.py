"""Uniform noise in C++ instead of twenty torch operators. Does not know what is drawn, or with which law."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from evodraft.runtime.native.library import Library

_Uniform = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # [batch, 2], [ids] -> [batch, ids]


def native_uniform(library: Library, otherwise: _Uniform) -> _Uniform:
    """The same bits as `evodraft.sampling.hashed_uniform`, which is `otherwise`: for tensors elsewhere than on the CPU.

    Only the lower 32 bits of a wider word count, there as here.
    """

    def uniform(key_words: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:  # [batch, 2], [ids] -> [batch, ids]
        if not (key_words.device.type == ids.device.type == "cpu"):
            return otherwise(key_words, ids)
        words, numbers = (tensor.to(torch.int32).contiguous() for tensor in (key_words, ids))
        results = words.new_empty(words.shape[0], numbers.shape[0], dtype=torch.float32)
        places = words.data_ptr(), words.shape[0], numbers.data_ptr(), numbers.shape[0], results.data_ptr()
        library.uniform(*places)
        return results

    return uniform
