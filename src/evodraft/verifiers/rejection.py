"""Lossless speculative sampling: accept with min(1, p / q), else recover from (p - q)+.

Papers: Leviathan et al. (arXiv 2211.17192), Chen et al. (arXiv 2302.01318); several children of a node are tried in
turn as in SpecInfer (arXiv 2305.09781). `p` and `q` are the laws of those papers. Does not know how laws are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evodraft.sampling import residual
from evodraft.types import ROOT, Verdict

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Draft, Request
    from evodraft.verifiers.base import Case


class RejectionVerifier:
    """Exact for any draft that tells the law it was drawn from; the highest acceptance of the exact verifiers."""

    exact = True

    def draft_key(self, request: Request, keys: RequestKeys, position: int) -> NoiseKey:
        return keys.next("draft")

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        draft = case.draft
        path: list[int] = []
        token_ids: list[int] = []
        num_fallbacks = 0
        while True:
            node = path[-1] if path else ROOT
            if node in case.scores.ends:
                return Verdict(tuple(path), tuple(token_ids), num_fallbacks)
            weights, total = case.scores.laws.at(node, token_ids), 1.0  # p, later what rejected siblings left of it
            for child in draft.children(node):
                token_id = draft.token_ids[child]
                q_of_token = 1.0 if draft.q is None else float(draft.q[child, token_id])
                if stream.accept(float(weights[token_id]), total * q_of_token, case.keys.next("accept")):
                    path.append(child)
                    token_ids.append(token_id)
                    break
                weights, is_fallback = residual(weights, total * _law_of_node(draft, child, weights))
                total = float(weights.sum())
                num_fallbacks += is_fallback
            else:
                drawn = stream.draw(weights[None], [case.keys.next("recover")])
                return Verdict(tuple(path), (*token_ids, int(drawn[0])), num_fallbacks)


def _law_of_node(draft: Draft, node: int, like: torch.Tensor) -> torch.Tensor:
    """The law [vocab] that a node was drawn from; one-hot where it was chosen (X1)."""
    if draft.q is not None:
        return draft.q[node]
    one_hot = torch.zeros_like(like)
    one_hot[draft.token_ids[node]] = 1.0
    return one_hot
