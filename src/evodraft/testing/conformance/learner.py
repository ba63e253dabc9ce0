"""Checks for learners: they take every kind of feedback, change none of it, and number their updates upwards.

Does not know drafters, so not whether an update does any good.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from evodraft.learners.base import LearnerNeeds
from evodraft.testing.conformance.expect import expect
from evodraft.testing.conformance.samples import sample_feedbacks
from evodraft.types import Update, Versions

if TYPE_CHECKING:
    from evodraft.learners.base import Learner
    from evodraft.types import Feedback

MakeLearner = Callable[[], "Learner"]
_NUM_ROUNDS = 40


def check_learner(make: MakeLearner) -> None:
    """Raises AssertionError unless learners from `make` keep the Learner protocol.

    >>> from evodraft.testing.learners import SwappingLearner
    >>> check_learner(lambda: SwappingLearner(lambda feedback: feedback.commit.token_ids))
    """
    learner = make()
    expect(isinstance(learner.needs, LearnerNeeds), f"needs is {learner.needs!r} instead of LearnerNeeds")
    _check_step(learner, 0.0, Versions())
    _check_rounds(make(), budget_ms=20.0)
    _check_rounds(make(), budget_ms=0.0)


def _check_rounds(learner: Learner, budget_ms: float) -> None:
    latest = Versions()
    for feedback in sample_feedbacks("a", _NUM_ROUNDS, with_logits=learner.needs.target_logits):
        before = copy.deepcopy(feedback)
        learner.observe(feedback)
        latest = _check_step(learner, budget_ms, latest)
        expect(_is_same(feedback, before), "the learner changed a feedback that others read too; work on a copy")


def _check_step(learner: Learner, budget_ms: float, latest: Versions) -> Versions:
    update = learner.step(budget_ms)
    if update is None:
        return latest
    expect(isinstance(update, Update), f"step() returned {update!r} instead of an Update or None")
    new = update.versions
    is_later = new != latest and new.weights >= latest.weights and new.vocabulary >= latest.vocabulary
    expect(is_later, f"an update of version {tuple(new)} came after version {tuple(latest)}; count upwards")
    return new


def _is_same(one: Feedback, other: Feedback) -> bool:
    is_same_draft = (one.draft.token_ids, one.draft.signals) == (other.draft.token_ids, other.draft.signals)
    tensors = [(one.draft.q, other.draft.q), (one.logits, other.logits)]
    return is_same_draft and all(a is None or (b is not None and torch.equal(a, b)) for a, b in tensors)
