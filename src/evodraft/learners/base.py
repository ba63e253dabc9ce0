"""The Learner protocol: who turns feedback into updates of the drafter.

A learner works on its own copy and hands out versioned updates; the engine applies them between rounds only (X5).
Does not know sessions or the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from evodraft.types import Feedback, Update


@dataclass(frozen=True, slots=True)
class LearnerNeeds:
    """What the engine must keep for a learner; nothing is kept that nobody declared."""

    target_logits: bool = False


class Learner(Protocol):
    """Learns from verification."""

    needs: LearnerNeeds

    def observe(self, feedback: Feedback) -> None:
        """Takes note of one round; must return quickly."""
        ...

    def step(self, budget_ms: float) -> Update | None:
        """Works for at most `budget_ms` and returns an update when one is ready."""
        ...
