"""Coupled, case by case. Its tokens: tests/exactness/test_coupled.py."""

from __future__ import annotations

import torch

from evodraft.params import SamplingParams
from evodraft.processors import EagerLaws
from evodraft.sampling import HashedStream, RequestKeys
from evodraft.types import ROOT, Draft, Request, Scores, Verdict
from evodraft.verifiers import Case, CoupledVerifier

SAYS = torch.eye(4)[[2, 1, 3, 0]]  # the target's token after root, node 0, node 1, node 2


def verify(draft: Draft, *, ends=()) -> Verdict:
    request = Request("a", (1,), SamplingParams(temperature=1.0), seed=0)
    case = Case(request, RequestKeys(0), 1, draft, Scores(SAYS, EagerLaws(SAYS), frozenset(ends)))
    return CoupledVerifier().verify(case, HashedStream())


def test_a_chain_stands_as_far_as_the_target_agrees() -> None:
    assert verify(Draft.chain([2, 1, 3])) == Verdict((0, 1, 2), (2, 1, 3, 0))
    assert verify(Draft.chain([2, 0, 3])) == Verdict((0,), (2, 1))
    assert verify(Draft.chain([0, 1, 3])) == Verdict((), (2,))
    assert verify(Draft.chain([])) == Verdict((), (2,))


def test_nothing_follows_a_node_that_ends_the_text() -> None:
    assert verify(Draft.chain([2, 1, 3]), ends=[2]) == Verdict((0, 1, 2), (2, 1, 3))
    assert verify(Draft.chain([2, 0]), ends=[1]) == Verdict((0,), (2, 1))
    assert verify(Draft.chain([0]), ends=[0]) == Verdict((), (2,))
    assert verify(Draft((0, 2), (ROOT, ROOT), None), ends=[0]) == Verdict((1,), (2, 3))


def test_the_matching_sibling_is_followed() -> None:
    assert verify(Draft((0, 2, 3), (ROOT, ROOT, 1), None)) == Verdict((1, 2), (2, 3, 0))


def test_of_equal_siblings_the_first_is_followed() -> None:
    assert verify(Draft((2, 2), (ROOT, ROOT), None)).path == (0,)


def test_q_is_not_looked_at() -> None:
    nonsense = torch.full((3, 4), torch.nan)
    assert verify(Draft.chain([2, 1, 0], nonsense)) == verify(Draft.chain([2, 1, 0]))


def test_draft_and_target_share_the_key_of_a_position() -> None:
    request, keys = Request("a", (1,), SamplingParams(), seed=4), RequestKeys(4, 1)
    assert CoupledVerifier().draft_key(request, keys, 9) == keys.coupled(9)
    assert keys.num_issued == 0
