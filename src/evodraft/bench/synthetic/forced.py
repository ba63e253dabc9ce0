"""Forced acceptance: draft tokens stand by a schedule, whatever the target thinks of them. Never exact.

Everything else is the production path: the rejection verifier walks the draft, asks for the target's laws, recovers
from the residual; only its question "accept?" is answered by the schedule. Does not know models or clocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from evodraft.errors import BenchError, UnknownOptionError
from evodraft.verifiers.rejection import RejectionVerifier

if TYPE_CHECKING:
    import torch

    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Draft, Laws, Request, Verdict
    from evodraft.verifiers.base import Case

ScheduleName = Literal["even", "iid"]
_SCHEDULES: Final = ("even", "iid")


def mean_acceptance_length(rate: float, num_draft_tokens: int) -> float:
    """(1 - a^(k + 1)) / (1 - a): what a round of k draft tokens commits on average.

    Each is accepted with probability a if all before it are; then comes the target's own token.

    >>> round(mean_acceptance_length(0.8, 5), 3), mean_acceptance_length(1.0, 5)
    (3.689, 6.0)
    """
    return float(sum(rate**position for position in range(num_draft_tokens + 1)))


class ForcedAcceptance:
    """A verifier that accepts each token of a chain with probability `rate`, if all before it are accepted.

    Args:
        rate: from 0 to 1.
        schedule: "iid" flips a coin for every token. "even" accepts in every round of a request the expected number of
            tokens, rounded so that after any number of rounds the sum is less than one token off: the least variance
            that whole tokens allow. The same mean, but positions within a round are then accepted in other shares.
        seed: of the choices; they depend on it and on the requests' seeds, not on who shares a batch.

    Remembers one number per request until `reset`. Raises BenchError for a rate that is none.

    >>> ForcedAcceptance(0.8).exact
    False
    """

    exact = False

    def __init__(self, rate: float, schedule: ScheduleName = "even", seed: int = 0) -> None:
        if not 0 <= rate <= 1:
            raise BenchError(f"an acceptance rate of {rate:g} cannot be; choose one from 0 to 1")
        if schedule not in _SCHEDULES:
            raise UnknownOptionError("schedule", schedule, _SCHEDULES)
        self.rate = rate
        self.schedule = schedule
        self._seed = seed
        self._rejection = RejectionVerifier()
        self._schedules: dict[str, _Schedule] = {}  # by request

    def __repr__(self) -> str:
        return f"ForcedAcceptance({self.rate:g}, {self.schedule!r}, seed={self._seed})"

    @property
    def note(self) -> str:
        """Why no figure made with it is one of a real model."""
        return f"forced acceptance {self.rate:g} ({self.schedule})"

    def reset(self) -> None:
        """Forgets all requests."""
        self._schedules.clear()

    def draft_key(self, request: Request, keys: RequestKeys, position: int) -> NoiseKey:
        return self._rejection.draft_key(request, keys, position)

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        """A verdict whose path has the length that the schedule says. Raises BenchError for a draft that is a tree."""
        answers = _Answers(stream, self._num_accepted(case.request, case.draft))
        asked = replace(case, scores=replace(case.scores, laws=_NeverSure(case.scores.laws)))
        # a forced rejection of what the target is sure of leaves no residual, which is no accident here
        return replace(self._rejection.verify(asked, answers), num_fallbacks=0)

    def _num_accepted(self, request: Request, draft: Draft) -> int:
        if draft.parents != tuple(range(-1, draft.num_tokens - 1)):
            raise BenchError("forced acceptance is defined for chains; take a drafter that drafts no trees")
        if request.request_id not in self._schedules:
            coin = random.Random(f"{self._seed}/{request.seed}/{request.sample_index}")
            self._schedules[request.request_id] = _Schedule(self.rate, coin, owed=coin.random())
        schedule = self._schedules[request.request_id]
        return schedule.even(draft.num_tokens) if self.schedule == "even" else schedule.iid(draft.num_tokens)


@dataclass(slots=True)
class _Schedule:
    """How many tokens of each draft of one request are accepted."""

    rate: float
    coin: random.Random
    owed: float  # tokens that are due; at first a random part of one, so that no round is biased

    def even(self, num_tokens: int) -> int:
        self.owed += mean_acceptance_length(self.rate, num_tokens) - 1
        num_accepted = min(int(self.owed), num_tokens)
        self.owed -= num_accepted
        return num_accepted

    def iid(self, num_tokens: int) -> int:
        rejected = (position for position in range(num_tokens) if self.coin.random() >= self.rate)
        return next(rejected, num_tokens)


@dataclass(frozen=True, slots=True)
class _NeverSure:
    """Laws that settle nothing before the stream was asked."""

    laws: Laws

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        return self.laws.at(node, path)

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return None


@dataclass(slots=True)
class _Answers:
    """A stream that draws like another one, and accepts a number of times and then no more."""

    stream: RandomStream
    num_accepted: int

    def draw(self, weights: torch.Tensor, keys: Sequence[NoiseKey], ids: torch.Tensor | None = None) -> torch.Tensor:
        return self.stream.draw(weights, keys, ids)

    def noise(self, keys: Sequence[NoiseKey], like: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        return self.stream.noise(keys, like, ids)

    def accept(self, p: float, q: float, key: NoiseKey) -> bool:
        self.stream.accept(p, q, key)  # what it takes, without what it says
        self.num_accepted -= 1
        return self.num_accepted >= 0
