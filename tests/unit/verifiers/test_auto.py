"""Auto: coupled for a named seed, rejection for all others."""

from __future__ import annotations

import pytest
import torch

from evodraft.params import SamplingParams
from evodraft.processors import EagerLaws
from evodraft.sampling import HashedStream, RequestKeys
from evodraft.types import Draft, Request, Scores
from evodraft.verifiers import AutoVerifier, Case, CoupledVerifier, RejectionVerifier

LAWS = torch.tensor([[0.25, 0.5, 0.25]] * 3)


@pytest.mark.parametrize(("is_seed_chosen", "wanted"), [(True, CoupledVerifier()), (False, RejectionVerifier())])
@pytest.mark.parametrize("seed", range(10))
def test_does_what_the_chosen_one_does(is_seed_chosen, wanted, seed) -> None:
    request = Request("a", (1,), SamplingParams(temperature=1.0), seed=seed, is_seed_chosen=is_seed_chosen)
    draft = Draft.chain([1, 0], LAWS[:2])
    results = []
    for verifier in (AutoVerifier(), wanted):
        keys = RequestKeys(seed)
        key = verifier.draft_key(request, keys, 5)
        verdict = verifier.verify(Case(request, keys, 1, draft, Scores(LAWS, EagerLaws(LAWS))), HashedStream())
        results.append((key, verdict, keys.num_issued))
    assert results[0] == results[1]
    assert AutoVerifier().exact
