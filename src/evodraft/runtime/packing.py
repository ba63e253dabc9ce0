"""Linear layers as functions: plain, or with the weight copied into oneDNN's own order.

On processors, small batches read weights faster in that order; `torch.compile` with freezing calls the same operators.
They are not part of torch's stable interface, so a small product is tried first. This module does not know models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]  # [..., columns] -> [..., rows]
LinearMaker = Callable[[torch.Tensor, torch.Tensor | None], Linear]  # weight [rows, columns], bias [rows]

_POINTWISE: Final[tuple[Any, ...]] = ("none", [], "")  # what follows the product: nothing


def plain_linear(
    weight: torch.Tensor,  # [rows, columns]
    bias: torch.Tensor | None,  # [rows]
) -> Linear:
    """The weight where it lies: no copy."""

    def apply(states: torch.Tensor) -> torch.Tensor:
        return functional.linear(states, weight, bias)

    return apply


def packed_linear(
    weight: torch.Tensor,  # [rows, columns]
    bias: torch.Tensor | None,  # [rows]
) -> Linear:
    """A copy of the weight in oneDNN's order; later changes of `weight` are not seen. Ask `packing_problem` first.

    The order is chosen for few rows of input. With many (more than about 16, as in prompts) `plain_linear` may be the
    faster one, and the original weight is still there for it.

    >>> weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    >>> packed_linear(weight, None)(torch.tensor([[3.0, 4.0]]))
    tensor([[11.,  4.]])
    """
    operators: Any = torch.ops.mkldnn
    with torch.inference_mode(False), torch.no_grad():  # the copy outlives the caller's mode
        packed = operators._reorder_linear_weight(weight, 1)

    def apply(states: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = operators._linear_pointwise(states, packed, bias, *_POINTWISE)
        return product

    return apply


def packing_problem(like: torch.Tensor) -> str | None:
    """Why weights like this one cannot be packed here; None if a small product comes out right.

    >>> packing_problem(torch.ones(1, dtype=torch.float64))  # doctest: +ELLIPSIS
    'oneDNN refuses float64: ...'
    """
    if like.device.type != "cpu":
        return f"oneDNN's order is for processors, not for {like.device.type}"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return "this build of torch has no oneDNN"
    matrix = torch.eye(32, dtype=like.dtype)
    vector = torch.arange(32, dtype=like.dtype)[None]
    try:
        product = packed_linear(matrix, vector[0])(vector)
    except (RuntimeError, TypeError) as error:  # a dtype it does not take; another signature
        return f"oneDNN refuses {str(like.dtype).removeprefix('torch.')}: {str(error).partition(chr(10))[0]}"
    return None if torch.equal(product, 2 * vector) else "oneDNN's product came out wrong"
