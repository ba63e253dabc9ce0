"""Can the native code run on given weights here? Compiles it if need be. Does not know models."""

from __future__ import annotations

from typing import Final

import torch

from evodraft.runtime.native.build import BuildError, build_library

DTYPES: Final = (torch.bfloat16, torch.float32)


def native_problem(like: torch.Tensor) -> str | None:
    """Why weights like this one cannot be used; None if they can."""
    if like.device.type != "cpu":
        return f"the native step is for processors, not for {like.device.type}"
    if like.dtype not in DTYPES:
        return f"the native step computes bfloat16 and float32, not {str(like.dtype).removeprefix('torch.')}"
    try:
        build_library()
    except BuildError as error:
        return str(error)
    return None
