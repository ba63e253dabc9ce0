"""The output matrix of a drafter, over all token ids or over some of them.

A draft over k ids reads k rows; the target still judges over all, so what comes out is the same (X9). Paper: FR-Spec
(arXiv 2502.14856). Does not know where the ids come from, nor who computes what the head is applied to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from evodraft.errors import ConfigError
from evodraft.runtime.changes import Changes
from evodraft.runtime.family import Matrix
from evodraft.runtime.native.linear import native_linear
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.packing import LinearMaker, packed_linear, plain_linear

if TYPE_CHECKING:
    from evodraft.runtime.step import Step

_LINEAR: Final[Mapping[str, LinearMaker]] = {"packed": packed_linear}  # name of a step -> how its products are computed


class SlicedHead:
    """Logits of some token ids: rows of an output matrix in a dense block of their own.

    The block is a copy. `refresh` takes over what was written into the matrix in place; without ids the matrix itself
    is read. Raises ConfigError for ids that do not ascend, or have no row.

    Args:
        weight: the whole matrix.
        bias: likewise.
        ids: whose logits; None = all.
        make_linear: how products are computed.
        token_ids: what the rows of the matrix stand for, if it has fewer than there are ids; None = row is id.

    >>> head = SlicedHead(torch.eye(4), None, [1, 3])
    >>> head(torch.tensor([[5.0, 6.0, 7.0, 8.0]])), head.ids.tolist(), head.num_rows
    (tensor([[6., 8.]]), [1, 3], 2)
    """

    def __init__(
        self,
        weight: torch.Tensor,  # [vocab, hidden]
        bias: torch.Tensor | None,  # [vocab]
        ids: Sequence[int] | None,
        make_linear: LinearMaker = plain_linear,
        *,
        token_ids: Sequence[int] | None = None,  # [vocab]
    ) -> None:
        self.version = 0  # counts what `refresh` took over
        own = torch.arange(weight.shape[0]) if token_ids is None else _ascending(token_ids)
        wanted = None if ids is None else _ascending(ids)
        self._rows = None if wanted is None else _places(wanted, own).to(weight.device)  # None = all
        self.ids = _named(wanted, None if token_ids is None else own, weight.device)  # [rows] int64; None = row is id
        self._full = Matrix(weight.detach(), None if bias is None else bias.detach())
        self._make_linear = make_linear
        self._changes = Changes(_tensors(self._full))
        self._block = self._full if self._rows is None else _rows_of(self._full, self._rows)
        self._linear = make_linear(self._block.weight, self._block.bias)

    @property
    def weight(self) -> torch.Tensor:  # [rows, hidden]
        """What is multiplied: the dense copy, or the matrix itself."""
        return self._block.weight

    @property
    def bias(self) -> torch.Tensor | None:  # [rows]
        """What is added to the logits."""
        return self._block.bias

    @property
    def num_rows(self) -> int:
        """Columns of the logits."""
        return self._block.weight.shape[0]

    @property
    def copied_bytes(self) -> int:
        """What the block takes beside the matrix; a packed copy comes on top."""
        return 0 if self._rows is None else sum(tensor.nbytes for tensor in _tensors(self._block))

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:  # [..., hidden] -> [..., rows]
        """Logits, column i of which stands for token id `ids[i]`."""
        return self._linear(hidden)

    def refresh(self) -> bool:
        """Takes over what was written into the matrix in place since the last call. True if there was anything.

        What the head is called with may not change within a round, and neither may its rows: call it between rounds
        (X5).
        """
        if not self._changes.found():
            return False
        if self._rows is not None:
            for block, full in zip(_tensors(self._block), _tensors(self._full), strict=True):
                block.copy_(full[self._rows])
        self._linear = self._make_linear(self._block.weight, self._block.bias)
        self.version += 1
        return True


def linear_of(step: Step | None) -> LinearMaker:
    """How the linear layers of a step are computed, for a head that goes with it; None = the model's own modules.

    >>> linear_of(None) is plain_linear
    True
    """
    if isinstance(step, NativeStep):
        return partial(native_linear, step.library)
    return plain_linear if step is None else _LINEAR.get(step.name, plain_linear)


def _rows_of(matrix: Matrix, rows: torch.Tensor) -> Matrix:  # rows [rows]
    with torch.inference_mode(False), torch.no_grad():  # the copy outlives the caller's mode
        return Matrix(matrix.weight[rows], None if matrix.bias is None else matrix.bias[rows])


def _tensors(matrix: Matrix) -> list[torch.Tensor]:
    return [matrix.weight] if matrix.bias is None else [matrix.weight, matrix.bias]


def _ascending(ids: Sequence[int]) -> torch.Tensor:  # [ids]
    wanted = torch.tensor(list(ids), dtype=torch.int64)
    if not len(wanted) or wanted[0] < 0 or not bool((wanted[1:] > wanted[:-1]).all()):
        raise ConfigError(f"a slice of {len(wanted)} token ids is empty or does not ascend; sort it, each id once")
    return wanted


def _places(ids: torch.Tensor, own: torch.Tensor) -> torch.Tensor:  # [rows], [vocab] both ascending -> [rows]
    """Where in `own` the ids stand."""
    missing = ids[~torch.isin(ids, own)]
    if len(missing):
        raise ConfigError(
            f"{len(missing)} token ids of a slice have no row in the output matrix of {len(own)} rows, first "
            f"{int(missing[0])}; leave them out"
        )
    return torch.searchsorted(own, ids)


def _named(wanted: torch.Tensor | None, own: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """What the columns stand for [rows]: what is wanted, else what there is."""
    ids = own if wanted is None else wanted
    return None if ids is None else ids.to(device)
