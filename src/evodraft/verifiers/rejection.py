"""Lossless speculative sampling: accept with min(1, p / q), else recover from (p - q)+.

Papers: Leviathan et al. (arXiv 2211.17192), Chen et al. (arXiv 2302.01318); several children of a node are tried in
turn as in SpecInfer (arXiv 2305.09781). `p` and `q` are the laws of those papers. Does not know how laws are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from evodraft.sampling import residual
from evodraft.verifiers.base import Said, walk

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Draft, Request, Verdict
    from evodraft.verifiers.base import Case


class RejectionVerifier:
    """Exact for any draft that tells the law it was drawn from; the highest acceptance of the exact verifiers."""

    exact = True

    def draft_key(self, request: Request, keys: RequestKeys, position: int) -> NoiseKey:
        return keys.next("draft")

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        trial = _Trial(case, stream, case.draft.drawn_with())
        return replace(walk(case, trial.say), num_fallbacks=trial.num_fallbacks)


@dataclass(slots=True)
class _Trial:
    case: Case
    stream: RandomStream
    drawn_with: Sequence[float]  # [nodes]
    num_fallbacks: int = 0

    def say(self, node: int, path: Sequence[int]) -> Said:
        """A child that is accepted, else what is drawn from the residual."""
        draft, keys = self.case.draft, self.case.keys
        weights, total = self.case.scores.laws.at(node, path), 1.0  # p, later what rejected siblings left of it
        for child in draft.children(node):
            token_id = draft.token_ids[child]
            if self.stream.accept(float(weights[token_id]), total * self.drawn_with[child], keys.next("accept")):
                return Said(token_id, child)
            weights, is_fallback = residual(weights, total * _law_of_node(draft, child, weights))
            total = float(weights.sum())
            self.num_fallbacks += is_fallback
        drawn = self.stream.draw(weights[None], [keys.next("recover")])
        return Said(int(drawn[0]), None)


def _law_of_node(draft: Draft, node: int, like: torch.Tensor) -> torch.Tensor:
    """The law [vocab] that a node was drawn from; one-hot where it was chosen (X1)."""
    if draft.q is not None:
        return draft.q[node]
    one_hot = torch.zeros_like(like)
    one_hot[draft.token_ids[node]] = 1.0
    return one_hot
