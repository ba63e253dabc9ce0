"""Learners: none is built in yet; the double keeps the protocol, and so must every later line of a table."""

from __future__ import annotations

import pytest

from evodraft import learners
from evodraft.learners import LearnerNeeds
from evodraft.testing import SwappingLearner, check_learner


def test_nothing_is_kept_that_nobody_declared() -> None:
    assert LearnerNeeds() == LearnerNeeds(target_logits=False)


@pytest.mark.parametrize("target_logits", [True, False])
def test_the_double_conforms(target_logits) -> None:
    check_learner(lambda: SwappingLearner(lambda feedback: feedback.logits, target_logits=target_logits))


@pytest.mark.parametrize("name", list(getattr(learners, "LEARNERS", {})) or [None])
def test_every_learner_of_the_table_conforms(name) -> None:
    if name is None:
        assert not hasattr(learners, "LEARNERS")
        return
    entry = learners.LEARNERS[name]
    check_learner(lambda: entry.build(entry.config()))
