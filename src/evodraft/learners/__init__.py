"""Learners, by name. None is built in yet: an object with the protocol of `base` can be passed to the engine."""

from __future__ import annotations

from evodraft.learners.base import Learner, LearnerNeeds

__all__ = ["Learner", "LearnerNeeds"]
