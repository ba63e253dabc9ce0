"""The walk that verifiers share, where the target is sure. Everything else: their own tests."""

from __future__ import annotations

import pytest
import torch

from evodraft.params import SamplingParams
from evodraft.processors import EagerLaws, GreedyLaws
from evodraft.sampling import HashedStream, RequestKeys
from evodraft.types import ROOT, Draft, Request, Scores
from evodraft.verifiers import Case, CoupledVerifier, RejectionVerifier

SAYS = (2, 1, 3, 0)  # the target's token after root, node 0, node 1, node 2
LOGITS = torch.eye(4)[list(SAYS)]
DRAFTS = {
    "right": Draft.chain([2, 1, 3]),
    "wrong in the middle": Draft.chain([2, 0, 3]),
    "wrong": Draft.chain([0, 1, 3]),
    "empty": Draft.chain([]),
    "drawn": Draft.chain([2, 0, 3], q=torch.full((3, 4), 0.25)),
    "tree": Draft((2, 1, 0), (ROOT, 0, ROOT), None),
    "tree with a wrong elder": Draft((3, 2, 1), (ROOT, ROOT, 1), None),
}


@pytest.mark.parametrize("verifier", [CoupledVerifier(), RejectionVerifier()], ids=["coupled", "rejection"])
@pytest.mark.parametrize("name", DRAFTS)
@pytest.mark.parametrize("ends", [(), (0,)])
def test_what_is_sure_is_what_the_one_hot_laws_say(verifier, name, ends) -> None:
    draft, request = DRAFTS[name], Request("a", (1,), SamplingParams(temperature=0.0), seed=0)
    rows = draft.num_tokens + 1
    sure = GreedyLaws(LOGITS[:rows], SAYS[:rows])
    asked = EagerLaws(torch.stack([sure.at(node, []) for node in range(ROOT, draft.num_tokens)]))
    verdicts = [
        verifier.verify(
            Case(request, RequestKeys(0), 1, draft, Scores(LOGITS[:rows], laws, frozenset(ends))), HashedStream()
        )
        for laws in (sure, asked)
    ]
    assert verdicts[0] == verdicts[1]
