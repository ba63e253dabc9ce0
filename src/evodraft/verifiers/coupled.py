"""Coupled verification: draft and target share noise, and the emitted token is always the target's own sample.

The noise of a position depends on seed, sample index and position alone, so the output is a function of seed and
target: no drafter, draft length, batch neighbour or learner can change it. Paper: arXiv 2408.07978. Does not know the
draft's laws: it never looks at q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evodraft.types import ROOT, Verdict

if TYPE_CHECKING:
    from evodraft.sampling import NoiseKey, RandomStream, RequestKeys
    from evodraft.types import Request
    from evodraft.verifiers.base import Case


class CoupledVerifier:
    """Exact for every draft, drawn or chosen; a draft token is accepted if the target would have said it itself."""

    exact = True

    def draft_key(self, request: Request, keys: RequestKeys, position: int) -> NoiseKey:
        return keys.coupled(position)

    def verify(self, case: Case, stream: RandomStream) -> Verdict:
        path: list[int] = []
        token_ids: list[int] = []
        while True:
            node = path[-1] if path else ROOT
            if node in case.scores.ends:
                return Verdict(tuple(path), tuple(token_ids))
            p = case.scores.laws.at(node, token_ids)
            key = case.keys.coupled(case.position + len(token_ids))
            token_id = int(stream.draw(p[None], [key])[0])
            token_ids.append(token_id)
            matching = [child for child in case.draft.children(node) if case.draft.token_ids[child] == token_id]
            if not matching:
                return Verdict(tuple(path), tuple(token_ids))
            path.append(matching[0])
