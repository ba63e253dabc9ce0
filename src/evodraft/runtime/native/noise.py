"""Uniform noise in C++ instead of twenty torch operators. Does not know what is drawn, or with which law."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from evodraft.runtime.native.library import Library


def native_uniform(library: Library) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The same bits as `evodraft.sampling.hashed_uniform`, for tensors in the processor's memory."""

    def uniform(key_words: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:  # [batch, 2], [ids] -> [batch, ids]
        numbers = key_words.new_empty(key_words.shape[0], ids.shape[0], dtype=torch.float32)
        places = key_words.data_ptr(), key_words.shape[0], ids.data_ptr(), ids.shape[0], numbers.data_ptr()
        library.uniform(*places)
        return numbers

    return uniform
