"""A learner that learns nothing and changes everything: after each step it hands out the update it is told to.

Does not know drafters: the payload is whatever the drafter at hand takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evodraft.learners.base import LearnerNeeds
from evodraft.types import Update, Versions

if TYPE_CHECKING:
    from evodraft.types import Feedback


class SwappingLearner:
    """Hands out `choose(feedback)` for the last round it saw, as the next version of the weights; None = no update.

    An adversary for exactness: what the drafter will say may depend on everything that was seen.

    >>> learner = SwappingLearner(lambda feedback: None)
    >>> learner.step(budget_ms=1.0) is None
    True
    """

    def __init__(self, choose: Callable[[Feedback], object], *, target_logits: bool = False) -> None:
        self.needs = LearnerNeeds(target_logits=target_logits)
        self.choose = choose
        self.feedbacks: list[Feedback] = []
        self.budgets_ms: list[float] = []
        self.versions = Versions()
        self._num_used = 0

    def observe(self, feedback: Feedback) -> None:
        self.feedbacks.append(feedback)

    def step(self, budget_ms: float) -> Update | None:
        self.budgets_ms.append(budget_ms)
        if self._num_used == len(self.feedbacks):
            return None
        self._num_used = len(self.feedbacks)
        payload = self.choose(self.feedbacks[-1])
        if payload is None:
            return None
        self.versions = self.versions._replace(weights=self.versions.weights + 1)
        return Update(self.versions, payload)
