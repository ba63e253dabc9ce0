"""Counters of one engine, in vLLM's names and definitions. Does not know how they are exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evodraft.types import Feedback, Timings

_PREFIX = "evodraft:spec_decode_"


@dataclass(slots=True)
class Metrics:
    """Monotonic counts since the engine was made."""

    num_target_passes: int = 0  # of one request each
    num_tokens: int = 0  # committed
    num_drafts: int = 0  # rounds: passes with at least one draft token
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_fallbacks: int = 0  # residuals that vanished in floating point (X8)
    num_failed_requests: int = 0
    accepted_per_position: list[int] = field(default_factory=list)
    prefill_s: float = 0.0  # seconds of the engine's steps, by what they were spent on; rounds take the rest
    draft_s: float = 0.0
    score_s: float = 0.0
    learn_s: float = 0.0  # publishing feedback and the learners' work

    def observe(self, feedback: Feedback) -> None:
        """Counts one round."""
        num_accepted = feedback.commit.num_accepted
        self.num_target_passes += 1
        self.num_tokens += len(feedback.commit.token_ids)
        self.num_fallbacks += feedback.verdict.num_fallbacks
        if feedback.draft.num_tokens == 0:
            return
        self.num_drafts += 1
        self.num_draft_tokens += feedback.draft.num_tokens
        self.num_accepted_tokens += num_accepted
        self.accepted_per_position.extend([0] * (num_accepted - len(self.accepted_per_position)))
        for position in range(num_accepted):
            self.accepted_per_position[position] += 1

    def spend(self, timings: Timings, learn_s: float) -> None:
        """Adds up the seconds of one engine step."""
        self.draft_s += timings.draft
        self.score_s += timings.score
        self.learn_s += learn_s

    def counters(self) -> Mapping[str, int]:
        """Counters by the names that dashboards for vLLM know, with this project's prefix."""
        by_position = {
            f'{_PREFIX}num_accepted_tokens_per_pos{{position="{position}"}}': count
            for position, count in enumerate(self.accepted_per_position)
        }
        return {
            f"{_PREFIX}num_drafts": self.num_drafts,
            f"{_PREFIX}num_draft_tokens": self.num_draft_tokens,
            f"{_PREFIX}num_accepted_tokens": self.num_accepted_tokens,
            **by_position,
            "evodraft:num_target_passes": self.num_target_passes,
            "evodraft:num_generation_tokens": self.num_tokens,
            "evodraft:num_residual_fallbacks": self.num_fallbacks,
            "evodraft:num_failed_requests": self.num_failed_requests,
        }
