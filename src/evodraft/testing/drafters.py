"""A drafter that says what it is told: any law, any choice, at any context.

Does not know targets, verifiers or what is done with its offers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from evodraft.drafters.base import CommittedRow, DrafterNeeds, DraftRow, DraftStep
from evodraft.types import Update, Versions

if TYPE_CHECKING:
    from evodraft.target import Chunk

Offer = Sequence[float] | int | None
"""A law [vocab] to draw from, a token id chosen without a law, or nothing."""
Script = Callable[[tuple[int, ...]], Offer]
"""What is offered after a context: the committed tokens and those drawn so far."""


class ScriptedDrafter:
    """Offers what `script` says for the context of each row.

    A choice beside a law in the same batch is offered as the one-hot law that it is. An update's payload replaces
    the script. `contexts` records every context that was asked for.

    >>> drafter = ScriptedDrafter(lambda context: [0.25, 0.75] if len(context) == 1 else 0, vocab_size=2)
    >>> drafter.step([DraftRow(slot=0, committed=[1])]).logits.exp().tolist()
    [[0.25, 0.75]]
    >>> drafter.step([DraftRow(slot=0, committed=[1], drafted=[1])]).token_ids
    (0,)
    """

    def __init__(
        self,
        script: Script,
        vocab_size: int,
        *,
        max_length: int | None = None,
        needs: DrafterNeeds | None = None,
    ) -> None:
        self.script = script
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.needs = needs or DrafterNeeds()
        self.versions = Versions()
        self.contexts: list[tuple[int, ...]] = []
        self.chunks: list[Chunk] = []
        self.commits: list[CommittedRow] = []
        self.released: list[int] = []

    def admit(self, chunks: Sequence[Chunk]) -> None:
        self.chunks.extend(chunks)

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        contexts = [(*row.committed, *row.drafted) for row in rows]
        self.contexts.extend(contexts)
        offers = [self.script(context) for context in contexts]
        choices = [offer for offer in offers if offer is None or isinstance(offer, int)]
        if len(choices) == len(offers):
            return DraftStep(token_ids=tuple(choices))
        return DraftStep(logits=torch.tensor([self._law(offer) for offer in offers], dtype=torch.float64).log())

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        self.commits.extend(rows)

    def release(self, slot: int) -> None:
        self.released.append(slot)

    def apply(self, update: Update) -> None:
        payload: Any = update.payload
        self.script = payload
        self.versions = update.versions

    def _law(self, offer: Offer) -> list[float]:
        if isinstance(offer, int) or offer is None:
            return [float(token_id == offer) for token_id in range(self.vocab_size)]
        return list(offer)
