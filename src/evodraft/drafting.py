"""One round of drafting for a batch: ask the controller, step the drafter, make q, draw, repeat.

The one place where draft tokens are drawn, so that X1 to X3 hold for every drafter and controller: a token is drawn
from the very law that is handed to the verifier, and whether a position is drawn at all is settled before its draw.
Does not know targets or verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from evodraft.controllers.base import Progress
from evodraft.drafters.base import DraftRow, DraftStep
from evodraft.exhaustion import within_memory
from evodraft.sampling import raw_signals, to_laws
from evodraft.types import Draft, Signals

if TYPE_CHECKING:
    from evodraft.controllers.base import Controller
    from evodraft.drafters.base import Drafter
    from evodraft.exhaustion import GiveUp
    from evodraft.sampling import RandomStream
    from evodraft.session import Session
    from evodraft.types import Plan
    from evodraft.verifiers.base import Verifier


@dataclass(slots=True)
class _Row:
    session: Session
    draft: DraftRow
    progress: Progress
    q: list[torch.Tensor | None] = field(default_factory=list)  # [vocab] each; None = chosen

    @property
    def is_open(self) -> bool:
        """Whether another token may follow: not after a stop token that ends the request."""
        drafted, session = self.draft.drafted, self.session
        return not drafted or not session.stops_at(drafted[-1], session.num_tokens + len(drafted))

    def append(self, token_id: int, q: torch.Tensor | None, signals: Signals | None) -> None:
        self.draft.drafted.append(token_id)
        self.progress.signals.append(signals)
        self.q.append(q)

    def laws(self) -> torch.Tensor | None:
        """Laws [tokens, vocab] of the drawn tokens, one-hot for a choice among them; None if all were chosen (X1)."""
        drawn = next((law for law in self.q if law is not None), None)
        if drawn is None:
            return None
        pairs = zip(self.q, self.draft.drafted, strict=True)
        return torch.stack([_one_hot(token_id, drawn) if law is None else law for law, token_id in pairs])


@dataclass(frozen=True, slots=True)
class DraftRound:
    """Draws drafts with one drafter, under one controller, with the noise that the verifier asks for.

    A session whose row does not fit into memory is given up; what the others have drawn stays drawn (X2, X14).
    """

    drafter: Drafter
    controller: Controller
    verifier: Verifier
    stream: RandomStream
    give_up: GiveUp

    def draw(self, sessions: Sequence[Session], plans: Sequence[Plan]) -> list[Draft]:
        """A draft per session, empty where the plan or the controller says so or the drafter has nothing."""
        rows = [
            _Row(session, DraftRow(session.slot, session.token_ids), Progress(session.request.request_id, plan))
            for session, plan in zip(sessions, plans, strict=True)
        ]
        active = [row for row in rows if row.progress.plan.width > 0]
        while active := self._allowed(active):
            step = within_memory(active, self._step, self.give_up)
            if step is None:
                break
            active = self._choose(active, step) if step.logits is None else self._sample(active, step.logits)
        versions = self.drafter.versions
        return [Draft.chain(row.draft.drafted, row.laws(), row.progress.signals, versions) for row in rows]

    def _step(self, rows: Sequence[_Row]) -> DraftStep:
        return self.drafter.step([row.draft for row in rows])

    def _allowed(self, rows: list[_Row]) -> list[_Row]:
        rows = [row for row in rows if row.is_open]
        if not rows:
            return []
        mask = self.controller.more([row.progress for row in rows])
        return [row for row, is_allowed in zip(rows, mask, strict=True) if is_allowed]

    def _choose(self, rows: list[_Row], step: DraftStep) -> list[_Row]:
        """Takes tokens chosen without a law; rows without an offer end their draft here."""
        assert step.token_ids is not None
        going_on = []
        for row, token_id in zip(rows, step.token_ids, strict=True):
            if token_id is not None:
                row.append(token_id, None, None)
                going_on.append(row)
        return going_on

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> list[_Row]:
        """Draws from q; a row whose logits [rows, vocab] are not usable ends its draft before the draw."""
        is_sound = logits.amax(dim=-1).isfinite()
        if not bool(is_sound.all()):
            rows = [row for row, sound in zip(rows, is_sound.tolist(), strict=True) if sound]
            logits = logits[is_sound]
        if not rows:
            return []
        q, token_ids = self._drawn(rows, logits)
        signals: Sequence[Signals | None] = (
            raw_signals(logits, token_ids) if self.controller.needs_signals else [None] * len(rows)
        )
        for row, token_id, law, signal in zip(rows, token_ids.tolist(), q, signals, strict=True):
            row.append(token_id, law, signal)
        return rows

    def _drawn(
        self, rows: Sequence[_Row], logits: torch.Tensor
    ) -> tuple[Sequence[torch.Tensor | None], torch.Tensor]:  # [rows, vocab] -> q [vocab] each, token ids [rows]
        requests = [row.session.request for row in rows]
        if all(request.params.temperature == 0.0 for request in requests):
            return [None] * len(rows), logits.argmax(dim=-1)  # the one-hot law, without the law (X1)
        laws = to_laws(logits, [request.params.law for request in requests])
        keys = [self.verifier.draft_key(row.session.request, row.session.keys, row.draft.length) for row in rows]
        q = laws[0][None] if len(rows) == 1 else torch.stack([laws[index] for index in range(len(rows))])
        return list(q), self.stream.draw(q, keys)


def _one_hot(token_id: int, like: torch.Tensor) -> torch.Tensor:
    law = torch.zeros_like(like)
    law[token_id] = 1.0
    return law
