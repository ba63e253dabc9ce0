"""Kernels that read weights: matrix-vector products over a list of matrices, one after the other.

All of them read the same bytes once in a sweep: exactly a model's weights, no buffer twice before all others were
read. So a cache serves what it would serve in decoding too. Does not know models or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import torch

from evodraft.runtime.native.library import load_library
from evodraft.runtime.native.linear import native_linear
from evodraft.runtime.native.problem import native_problem
from evodraft.runtime.packing import LinearMaker, packed_linear, packing_problem, plain_linear

Sweep = Callable[[], list[torch.Tensor]]  # each product [1, rows]
Matrices = Sequence[torch.Tensor]  # each [rows, columns]

_STACK_BYTES: Final = 2**26  # large enough for calls to cost nothing, small enough to make one at a time


def swept(make: LinearMaker, matrices: Matrices) -> Sweep:
    """Multiplies every matrix by a vector of ones; the products come back in order. What `make` copies is not timed."""
    pairs = [(make(matrix, None), _input_of(matrix)) for matrix in matrices]

    def sweep() -> list[torch.Tensor]:
        with torch.no_grad():
            return [linear(vector) for linear, vector in pairs]

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


class Kernel(NamedTuple):
    """One way to read all the matrices."""

    maker: Callable[[], LinearMaker]
    num_copies: int  # of the weights at once
    why_not: Callable[[torch.Tensor], str | None] = lambda like: None  # for weights like this one
    is_stacked: bool = False

    def prepare(self, matrices: Matrices) -> Sweep:
        """A sweep over the matrices."""
        return swept(self.maker(), stacked(matrices) if self.is_stacked else matrices)

    def problem(self, matrices: Matrices, free_bytes: int) -> str | None:
        """Why it cannot run on these matrices here; None if it can."""
        if (why := self.why_not(matrices[0])) is not None:
            return why
        needed = self.num_copies * sum(matrix.nbytes for matrix in matrices)
        if needed > free_bytes:
            return f"its copies of the weights take {needed / 2**30:.1f} GiB and {free_bytes / 2**30:.1f} GiB are free"
        return None


def _native_maker() -> LinearMaker:
    return partial(native_linear, load_library())


KERNELS: Final[Mapping[str, Kernel]] = {
    "linear": Kernel(lambda: plain_linear, 0),
    "linear, stacked": Kernel(lambda: plain_linear, 1, is_stacked=True),
    "prepacked": Kernel(lambda: packed_linear, 1, packing_problem),
    "prepacked, stacked": Kernel(lambda: packed_linear, 2, packing_problem, is_stacked=True),
    "native": Kernel(_native_maker, 0, native_problem),
    "native, stacked": Kernel(_native_maker, 1, native_problem, is_stacked=True),
}
"""The matrices in a model's own shapes, and joined to tall ones; as torch, oneDNN and our own code read them."""


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
