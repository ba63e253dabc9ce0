"""One linear layer in C++, on the weight where it lies. Does not know what it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evodraft.errors import CapacityError
from evodraft.runtime.native import library as native

if TYPE_CHECKING:
    from evodraft.runtime.native.library import Library
    from evodraft.runtime.packing import Linear


def native_linear(
    library: Library,
    weight: torch.Tensor,  # [rows, columns] bfloat16 or float32, in the processor's memory
    bias: torch.Tensor | None,  # [rows]
) -> Linear:
    """A function from [..., columns] to float32 [..., rows]; each row's bits do not depend on the others."""
    assert weight.is_contiguous(), "the native code reads matrices row by row"
    rows, columns = weight.shape
    added = None if bias is None else bias.detach().to(torch.float32).contiguous()
    matrix = native.Matrix(weight.data_ptr(), None if added is None else added.data_ptr(), rows, columns)
    kept = (weight, added)  # what the matrix points to

    def apply(states: torch.Tensor) -> torch.Tensor:
        tokens = states.to(torch.float32).contiguous()
        num_tokens = tokens.numel() // columns
        results = tokens.new_empty(*tokens.shape[:-1], rows)
        is_bfloat16 = kept[0].dtype == torch.bfloat16
        places = tokens.data_ptr(), num_tokens, results.data_ptr()
        if not library.linear(matrix, *places, torch.get_num_threads(), is_bfloat16=is_bfloat16):
            raise CapacityError(f"there is no memory left for a product of {num_tokens} tokens; lower max_batch")
        return results

    return apply
