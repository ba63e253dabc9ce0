"""Kernels that read weights: matrix-vector products over a list of matrices, one after the other.

All of them read the same bytes once in a sweep: exactly a model's weights, no buffer twice before all others were
read. So a cache serves what it would serve in decoding too. Does not know models or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch.nn import functional

from evodraft.bench.roofline.timing import Action

Matrices = Sequence[torch.Tensor]  # each [rows, columns]

_STACK_BYTES: Final = 2**26  # large enough for calls to cost nothing, small enough to make one at a time
_SPEC: Final[tuple[Any, ...]] = ("none", [], "")  # of mkldnn's pointwise tail: there is none


def linear_sweep(matrices: Matrices) -> Action:
    """`F.linear`, as a model calls it."""
    pairs = [(_input_of(matrix), matrix) for matrix in matrices]

    def sweep() -> None:
        with torch.no_grad():
            for vector, matrix in pairs:
                functional.linear(vector, matrix)

    return sweep


def prepacked_sweep(matrices: Matrices) -> Action:
    """Weights in oneDNN's own order: the same products, as `torch.compile` with freezing calls them. Makes a copy."""
    operators: Any = torch.ops.mkldnn
    pairs = [(_input_of(matrix), operators._reorder_linear_weight(matrix, 1)) for matrix in matrices]

    def sweep() -> None:
        with torch.no_grad():
            for vector, packed in pairs:
                operators._linear_pointwise(vector, packed, None, *_SPEC)

    return sweep


def stacked(matrices: Matrices) -> list[torch.Tensor]:
    """Neighbours of equal width as one tall matrix, up to 64 MiB: the same bytes in fewer calls. Copies what it joins.

    >>> [tuple(m.shape) for m in stacked([torch.ones(2, 4), torch.ones(3, 4), torch.ones(4, 2)])]
    [(5, 4), (4, 2)]
    """
    by_width = sorted(matrices, key=lambda matrix: matrix.shape[1], reverse=True)
    tall: list[torch.Tensor] = []
    for _, group in groupby(by_width, key=lambda matrix: matrix.shape[1]):
        pile: list[torch.Tensor] = []
        for matrix in group:
            if pile and sum(part.nbytes for part in pile) + matrix.nbytes > _STACK_BYTES:
                tall.append(_joined(pile))
                pile = []
            pile.append(matrix)
        tall.append(_joined(pile))
    return tall


def prepacking_problem(like: torch.Tensor) -> str | None:
    """Why weights like this one cannot be prepacked here; None if a small product comes out right."""
    if like.device.type != "cpu":
        return f"oneDNN's order is for processors, not for {like.device.type}"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return "this build of torch has no oneDNN"
    matrix = torch.eye(32, dtype=like.dtype)
    vector = torch.arange(32, dtype=like.dtype)[None]
    try:
        operators: Any = torch.ops.mkldnn
        product = operators._linear_pointwise(vector, operators._reorder_linear_weight(matrix, 1), None, *_SPEC)
    except (RuntimeError, TypeError) as error:  # a dtype it does not take; another signature
        return f"oneDNN refuses {str(like.dtype).removeprefix('torch.')}: {str(error).partition(chr(10))[0]}"
    return None if torch.equal(product, vector) else "oneDNN's product came out wrong"


class Kernel(NamedTuple):
    """One way to read all the matrices."""

    prepare: Callable[[Matrices], Action]  # what it copies is not timed
    num_copies: int  # of the weights at once
    is_prepacked: bool = False

    def problem(self, matrices: Matrices, free_bytes: int) -> str | None:
        """Why it cannot run on these matrices here; None if it can."""
        if self.is_prepacked and (why := prepacking_problem(matrices[0])) is not None:
            return why
        needed = self.num_copies * sum(matrix.nbytes for matrix in matrices)
        if needed > free_bytes:
            return f"its copies of the weights take {needed / 2**30:.1f} GiB and {free_bytes / 2**30:.1f} GiB are free"
        return None


KERNELS: Final[Mapping[str, Kernel]] = {
    "linear": Kernel(linear_sweep, 0),
    "linear, stacked": Kernel(lambda matrices: linear_sweep(stacked(matrices)), 1),
    "prepacked": Kernel(prepacked_sweep, 1, is_prepacked=True),
    "prepacked, stacked": Kernel(lambda matrices: prepacked_sweep(stacked(matrices)), 2, is_prepacked=True),
}
"""The matrices in a model's own shapes, and joined to tall ones; as they lie, and prepacked."""


def last_level_cache_bytes(
    device: torch.device, folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")
) -> int | None:
    """Bytes of the largest cache; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text(encoding="utf-8").strip() for path in folder.glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes if size.endswith("K")), default=None)


def _input_of(matrix: torch.Tensor) -> torch.Tensor:
    return torch.ones(1, matrix.shape[1], dtype=matrix.dtype, device=matrix.device)


def _joined(pile: list[torch.Tensor]) -> torch.Tensor:
    return pile[0] if len(pile) == 1 else torch.cat(pile)
