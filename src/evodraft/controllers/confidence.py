"""transformers' rule: stop after a token that the draft itself found improbable.

The token that falls below the threshold is still verified, so the rule is lossless (X2). From six observations on, the
threshold is the ROC point with the smallest false positive rate + 3 x false negative rate, as in transformers'
AssistedCandidateGenerator, without scikit-learn. State is kept per request and dropped with it. Does not know costs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from evodraft.config import check_range
from evodraft.errors import ConfigError
from evodraft.types import ROOT, Plan

if TYPE_CHECKING:
    from evodraft.controllers.base import Progress
    from evodraft.types import Feedback

_MIN_OBSERVATIONS = 6
_FALSE_NEGATIVE_WEIGHT = 3.0
_MAX_OBSERVATIONS = 1024  # ours: the latest ones, so that long outputs cost no more and old text is forgotten


class Observations:
    """The latest tokens and whether each matched, kept in order so that the threshold costs one pass over them.

    >>> seen = Observations()
    >>> for probability in (0.9, 0.8, 0.6, 0.4, 0.3, 0.2):
    ...     seen.add(probability, is_match=probability > 0.5)
    >>> seen.threshold()
    0.6
    """

    def __init__(self) -> None:
        self._arrivals: deque[tuple[float, bool]] = deque()
        self._ascending = {True: array("d"), False: array("d")}  # probabilities of matches, and of the others

    def __len__(self) -> int:
        return len(self._arrivals)

    def add(self, probability: float, is_match: bool) -> None:
        """Notes one, and forgets the oldest where there are too many."""
        if len(self) == _MAX_OBSERVATIONS:
            old, was_match = self._arrivals.popleft()
            others = self._ascending[was_match]
            del others[bisect_left(others, old)]
        self._arrivals.append((probability, is_match))
        insort(self._ascending[is_match], probability)

    def threshold(self) -> float | None:
        """What `best_threshold` says of them, bit by bit; None while they are few or all of one kind.

        Only a match can be it: a token that did not match is outdone by the next probability above it, or, where there
        is none, by the lowest of all.
        """
        matches, others = self._ascending[True], self._ascending[False]
        if len(self) < _MIN_OBSERVATIONS or not matches or not others:
            return None
        p, wrong = np.frombuffer(matches)[::-1], np.frombuffer(others)  # p falls; of equal ones the last is cheapest
        false_positive_rate = (len(wrong) - np.searchsorted(wrong, p)) / len(wrong)
        false_negative_rate = 1 - np.arange(1, len(p) + 1) / len(p)
        return float(p[np.argmin(false_positive_rate + _FALSE_NEGATIVE_WEIGHT * false_negative_rate)])


@dataclass(slots=True)
class _State:
    threshold: float
    seen: Observations = field(default_factory=Observations)


@dataclass(frozen=True, slots=True)
class ConfidenceConfig:
    """Options of the confidence rule; defaults are transformers'."""

    threshold: float = 0.4  # probability at which each request starts
    max_draft_tokens: int = 20  # cap per round
    adapt: bool = True  # move the threshold with what verification says

    def __post_init__(self) -> None:
        check_range(self, "threshold", 0.0, 1.0)
        check_range(self, "max_draft_tokens", 1, 64)
        if not isinstance(self.adapt, bool):
            raise ConfigError(f"adapt={self.adapt!r} is neither True nor False; choose one")


class ConfidenceController:
    """Drafts until the drawn token's probability falls below an adapting threshold."""

    needs_signals = True

    def __init__(self, config: ConfidenceConfig = ConfidenceConfig()) -> None:
        self.config = config
        self._plan = Plan(width=config.max_draft_tokens)
        self._states: dict[str, _State] = {}

    def start(self, request_id: str) -> None:
        self._states[request_id] = _State(self.config.threshold)

    def plan(self, request_id: str) -> Plan:
        return self._plan

    def more(self, rows: Sequence[Progress]) -> list[bool]:
        return [row.num_drawn < row.plan.width and self._is_confident(row) for row in rows]

    def observe(self, feedback: Feedback) -> None:
        state = self._states.get(feedback.request_id)
        if state is None or not self.config.adapt or not feedback.draft.signals:
            return
        path, draft = feedback.verdict.path, feedback.draft
        rejected = draft.children(path[-1] if path else ROOT)[:1]  # the first that was tried below the path
        for node in (*path, *rejected):
            signals = draft.signals[node]
            if signals is not None:
                state.seen.add(signals.probability, node not in rejected)
        best = state.seen.threshold()
        state.threshold = state.threshold if best is None else best

    def finish(self, request_id: str) -> None:
        self._states.pop(request_id, None)

    def _is_confident(self, row: Progress) -> bool:
        last = row.signals[-1] if row.signals else None
        return last is None or last.probability >= self._states[row.request_id].threshold


def best_threshold(probabilities: Sequence[float], matches: Sequence[bool]) -> float:
    """The observed probability that minimises false positive rate + 3 x false negative rate of "match if >=".

    The rule as it is written down; `Observations` gives the same without sorting again. `probabilities` and `matches`
    [observations]; both outcomes must occur.

    >>> best_threshold([0.9, 0.8, 0.3, 0.2], [True, True, False, False])
    0.8
    """
    p, is_match = np.asarray(probabilities), np.asarray(matches, dtype=bool)
    order = np.argsort(-p, kind="stable")
    p, is_match = p[order], is_match[order]
    is_last_of_its_value = np.append(p[1:] != p[:-1], True)
    num_true_positives = np.cumsum(is_match)[is_last_of_its_value]
    num_false_positives = np.cumsum(~is_match)[is_last_of_its_value]
    false_positive_rate = num_false_positives / (~is_match).sum()
    false_negative_rate = 1 - num_true_positives / is_match.sum()
    costs = false_positive_rate + _FALSE_NEGATIVE_WEIGHT * false_negative_rate
    return float(p[is_last_of_its_value][np.argmin(costs)])
