"""transformers' rule: stop after a token that the draft itself found improbable.

The token that falls below the threshold is still verified, so the rule is lossless (X2). From six observations on, the
threshold is the ROC point with the smallest false positive rate + 3 x false negative rate, as in transformers'
AssistedCandidateGenerator, without scikit-learn. State is kept per request and dropped with it. Does not know costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from evodraft.config import check_range
from evodraft.errors import ConfigError
from evodraft.types import Plan

if TYPE_CHECKING:
    from evodraft.controllers.base import Progress
    from evodraft.types import Feedback

_MIN_OBSERVATIONS = 6
_FALSE_NEGATIVE_WEIGHT = 3.0
_MAX_OBSERVATIONS = 1024  # ours: the latest ones, so that long outputs cost no more and old text is forgotten


@dataclass(slots=True)
class _State:
    threshold: float
    probabilities: list[float] = field(default_factory=list)
    matches: list[bool] = field(default_factory=list)


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
        num_accepted = feedback.verdict.num_accepted
        for position, signals in enumerate(feedback.draft.signals[: num_accepted + 1]):
            if signals is not None:
                state.probabilities.append(signals.probability)
                state.matches.append(position < num_accepted)
        del state.probabilities[:-_MAX_OBSERVATIONS], state.matches[:-_MAX_OBSERVATIONS]
        if len(state.matches) >= _MIN_OBSERVATIONS and len(set(state.matches)) == 2:
            state.threshold = best_threshold(state.probabilities, state.matches)

    def finish(self, request_id: str) -> None:
        self._states.pop(request_id, None)

    def _is_confident(self, row: Progress) -> bool:
        last = row.signals[-1] if row.signals else None
        return last is None or last.probability >= self._states[row.request_id].threshold


def best_threshold(probabilities: Sequence[float], matches: Sequence[bool]) -> float:
    """The observed probability that minimises false positive rate + 3 x false negative rate of "match if >=".

    `probabilities` and `matches` [observations]; both outcomes must occur.

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
