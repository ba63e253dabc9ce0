"""A drafter that offers some token ids only, in columns of their own.

Does not know targets, verifiers or output matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from evodraft.drafters.base import DraftStep

if TYPE_CHECKING:
    from evodraft.drafters.base import CommittedRow, Drafter, DrafterNeeds, DraftRow
    from evodraft.target import Chunk
    from evodraft.types import Update


class SlicedDrafter:
    """Of what `inner` offers, the columns of `ids`. An update's payload are the ids from then on.

    >>> from evodraft.drafters.base import DraftRow
    >>> from evodraft.testing.drafters import ScriptedDrafter
    >>> drafter = SlicedDrafter(ScriptedDrafter(lambda context: [0.25, 0.25, 0.5], vocab_size=3), [0, 2])
    >>> step = drafter.step([DraftRow(0, [1])])
    >>> step.logits.softmax(-1)[0, 1].item() * 3, step.ids.tolist()
    (2.0, [0, 2])
    """

    def __init__(self, inner: Drafter, ids: Sequence[int]) -> None:
        self.inner = inner
        self.ids = torch.tensor(ids)  # [columns]
        self.versions = inner.versions
        self.max_length = inner.max_length
        self.needs: DrafterNeeds = inner.needs

    def admit(self, chunks: Sequence[Chunk]) -> None:
        self.inner.admit(chunks)

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        logits = self.inner.step(rows).logits
        assert logits is not None, "only a law can be sliced"
        return DraftStep(logits=logits[:, self.ids], ids=self.ids)

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        self.inner.commit(rows)

    def release(self, slot: int) -> None:
        self.inner.release(slot)

    def apply(self, update: Update) -> None:
        payload: Any = update.payload
        self.ids, self.versions = torch.tensor(payload), update.versions
