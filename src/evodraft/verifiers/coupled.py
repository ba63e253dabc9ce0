"""Coupled verification: draft and target share noise, and the emitted token is always the target's own sample.

The noise of a position depends on seed, sample index and position alone, so the output is a function of seed and
target: no drafter, draft length, batch neighbour or learner can change it. Paper: arXiv 2408.07978. Does not know the
draft's laws: it never looks at q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evodraft.verifiers.base import Said, walk

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Request, Verdict
    from evodraft.verifiers.base import Case


class CoupledVerifier:
    """Exact for every draft, drawn or chosen; a draft token is accepted if the target would have said it itself."""

    exact = True

    def draft_key(self, request: Request, keys: RequestKeys, position: int) -> NoiseKey:
        return keys.coupled(position)

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        def say(node: int, path: Sequence[int]) -> Said:
            p = case.scores.laws.at(node, path)
            token_id = int(stream.draw(p[None], [case.keys.coupled(case.position + len(path))])[0])
            return Said(token_id, case.draft.child(node, token_id))

        return walk(case, say)
