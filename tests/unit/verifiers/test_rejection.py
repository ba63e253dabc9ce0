"""Rejection, case by case. Its law: tests/exactness."""

from __future__ import annotations

import pytest
import torch

from evodraft.params import SamplingParams
from evodraft.processors import EagerLaws
from evodraft.sampling import HashedStream, RequestKeys
from evodraft.types import ROOT, Draft, Request, Scores, Verdict
from evodraft.verifiers import Case, RejectionVerifier

P = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])


class Decided(HashedStream):
    """Accepts and draws as it is told; notes what it was asked."""

    def __init__(self, accepts=(), draws=()) -> None:
        object.__setattr__(self, "accepts", list(accepts))
        object.__setattr__(self, "draws", list(draws))
        object.__setattr__(self, "asked", [])

    def accept(self, p, q, key) -> bool:
        self.asked.append(("accept", p, q, key.purpose))
        return self.accepts.pop(0)

    def draw(self, weights, keys, ids=None):
        self.asked.append(("draw", weights[0].tolist(), keys[0].purpose))
        return torch.tensor([self.draws.pop(0)])


def verify(draft: Draft, stream, p: torch.Tensor = P, *, ends=()) -> Verdict:
    request = Request("a", (1,), SamplingParams(temperature=1.0), seed=0)
    scores = Scores(p, EagerLaws(p), frozenset(ends))
    return RejectionVerifier().verify(Case(request, RequestKeys(0), 1, draft, scores), stream)


CHAIN = Draft.chain([1, 2], torch.tensor([[0.25, 0.5, 0.25], [0.0, 0.5, 0.5]]))


def test_all_accepted_and_one_more() -> None:
    stream = Decided(accepts=[True, True], draws=[0])
    assert verify(CHAIN, stream) == Verdict((0, 1), (1, 2, 0))
    assert stream.asked == [
        ("accept", 0.5, 0.5, "accept"),
        ("accept", 0.75, 0.5, "accept"),
        ("draw", [1.0, 0.0, 0.0], "recover"),
    ]


def test_the_first_rejection_ends_it_with_the_residual() -> None:
    stream = Decided(accepts=[True, False], draws=[2])
    assert verify(CHAIN, stream) == Verdict((0,), (1, 2))
    assert stream.asked[-1] == ("draw", [0.0, 0.0, 0.25], "recover")


def test_without_a_draft_the_target_speaks() -> None:
    stream = Decided(draws=[1])
    assert verify(Draft.chain([]), stream) == Verdict((), (1,))
    assert stream.asked == [("draw", [0.5, 0.5, 0.0], "recover")]


def test_nothing_follows_a_node_that_ends_the_text() -> None:
    assert verify(CHAIN, Decided(accepts=[True, True]), ends=[1]) == Verdict((0, 1), (1, 2))
    assert verify(CHAIN, Decided([False], [0]), ends=[1]) == Verdict((), (0,))
    siblings = Draft((1, 2), (ROOT, ROOT), None)
    assert verify(siblings, Decided([False, True], [0]), ends=[0]) == Verdict((1,), (2, 0))
    assert verify(siblings, Decided([False, True]), ends=[1]) == Verdict((1,), (2,))


def test_a_choice_is_one_hot() -> None:
    stream = Decided(accepts=[False], draws=[1])
    verify(Draft.chain([0]), stream)
    assert stream.asked == [("accept", 0.5, 1.0, "accept"), ("draw", [0.0, 0.5, 0.0], "recover")]


def test_siblings_are_tried_in_turn_against_what_is_left() -> None:
    stream = Decided(accepts=[False, True, False], draws=[2])
    draft = Draft((0, 1, 2), (ROOT, ROOT, 1), None)
    # node 1 stands after its sibling fell; its child does not
    assert verify(draft, stream, P[[0, 0, 1, 2]]) == Verdict((1,), (1, 2))
    assert stream.asked == [
        ("accept", 0.5, 1.0, "accept"),
        ("accept", 0.5, 0.5, "accept"),  # the residual of the first weighs one half
        ("accept", 0.75, 1.0, "accept"),
        ("draw", [0.0, 0.25, 0.0], "recover"),
    ]


def test_a_residual_that_vanished_falls_back_to_p_and_is_counted() -> None:
    """p = q cannot be rejected, but in floating point q may be p plus rounding (X8)."""
    q = torch.tensor([[0.5, 0.5, 1e-9]])
    stream = Decided(accepts=[False], draws=[0])
    assert verify(Draft.chain([1], q), stream, P[:2]) == Verdict((), (0,), num_fallbacks=1)
    assert stream.asked[-1] == ("draw", [0.5, 0.5, 0.0], "recover")


def test_every_key_is_new() -> None:
    request, keys = Request("a", (1,), SamplingParams(), seed=4), RequestKeys(4)
    verifier = RejectionVerifier()
    issued = {verifier.draft_key(request, keys, 3) for _ in range(5)}
    assert len(issued) == 5
    assert {key.purpose for key in issued} == {"draft"}


@pytest.mark.parametrize("seed", range(20))
def test_greedy_accepts_exactly_what_the_target_says(seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    best = torch.randint(3, (4,), generator=generator)
    drafted = torch.randint(3, (3,), generator=generator).tolist()
    verdict = verify(Draft.chain(drafted), HashedStream(), torch.eye(3)[best])
    num_right = next((i for i, token_id in enumerate(drafted) if token_id != best[i]), 3)
    assert verdict.num_accepted == num_right
    assert verdict.token_ids == tuple(best[: num_right + 1].tolist())
