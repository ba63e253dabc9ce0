"""Can the native code run on given weights here, and what is to be expected of it? Does not know models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from evodraft.machine import processor_flags
from evodraft.runtime.native.build import BuildError, library_state
from evodraft.runtime.native.library import load_library

DTYPES: Final = (torch.bfloat16, torch.float32)


def native_problem(like: torch.Tensor, build: Callable[[], object] | None = None) -> str | None:
    """Why weights like this one cannot be used; None if they can.

    Compiles the code if need be; `build` may stand in for that, e.g. `library_state`, which only looks.
    """
    if like.device.type != "cpu":
        return f"the native step is for processors, not for {like.device.type}"
    if like.dtype not in DTYPES:
        return f"the native step computes bfloat16 and float32, not {str(like.dtype).removeprefix('torch.')}"
    try:
        (build or load_library)()
    except BuildError as error:
        return str(error)
    return None


def native_outlook(dtype: torch.dtype) -> tuple[str, ...]:
    """Whether the code is compiled already, and with which instructions it multiplies. Raises BuildError."""
    if dtype != torch.bfloat16:
        return (library_state(),)
    has_products = "avx512_bf16" in processor_flags()
    products = "products by avx512_bf16" if has_products else "products in float32, for want of avx512_bf16"
    return (library_state(), products)
