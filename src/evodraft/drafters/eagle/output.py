"""A head's own output matrix, which has rows for some of the target's ids only.

Does not know which ids are wanted, nor what the matrix is applied to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evodraft.drafters.sliced_head import SlicedHead
from evodraft.errors import ModelMismatchError
from evodraft.runtime.packing import LinearMaker, plain_linear


class OwnOutput(SlicedHead):
    """A SlicedHead whose `ids` are the target's, whatever rows they stand in.

    Raises ModelMismatchError if the matrix has none of the wanted ids; others than those it has are left out.

    Args:
        weight: the matrix.
        token_ids: the target's id of each row, ascending.
        wanted: ids to which it is cut; None = all that it has.
        make_linear: how products are computed.

    >>> head = OwnOutput(torch.eye(3), torch.tensor([4, 7, 9]), [2, 7, 9])
    >>> head(torch.tensor([[1.0, 2.0, 3.0]])), head.ids.tolist()
    (tensor([[2., 3.]]), [7, 9])
    """

    def __init__(
        self,
        weight: torch.Tensor,  # [rows, hidden]
        token_ids: torch.Tensor,  # [rows] int64
        wanted: Sequence[int] | None,
        make_linear: LinearMaker = plain_linear,
    ) -> None:
        super().__init__(weight, None, None if wanted is None else _rows(token_ids, wanted), make_linear)
        self._rows = self.ids
        self.ids = token_ids if self._rows is None else token_ids[self._rows]

    def refresh(self) -> bool:
        """As SlicedHead's, which counts in rows."""
        shown, self.ids = self.ids, self._rows
        try:
            return super().refresh()
        finally:
            self.ids = shown


def _rows(token_ids: torch.Tensor, wanted: Sequence[int]) -> list[int]:
    """Rows that stand for ids that are wanted. A head has no others to offer."""
    rows: list[int] = torch.isin(token_ids, torch.tensor(wanted, device=token_ids.device)).nonzero().flatten().tolist()
    if not rows:
        raise ModelMismatchError(
            f"none of the {len(wanted)} ids of the vocabulary is among the {len(token_ids)} that the head can say; "
            "leave vocabulary= out, or take another"
        )
    return rows
