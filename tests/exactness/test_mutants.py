"""Known ways to be wrong. Each is built on purpose, and the checks of this folder must see it.

Where a textbook counter-example exists, the wrong law must have exactly its fractions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
import torch

from evodraft import processors, sampling
from evodraft.controllers import FixedController
from evodraft.drafters import ModelDrafter
from evodraft.drafting import DraftRound
from evodraft.params import SamplingParams
from evodraft.sampling import RequestKeys
from evodraft.session import Session
from evodraft.target import Target
from evodraft.testing import (
    EnumeratingStream,
    ReusedKeyError,
    ScriptedController,
    ScriptedDrafter,
    TableDecoder,
    TableLM,
    check_verifier,
    coupled_tokens,
    enumerate_outcomes,
    outputs,
    plain_law,
    product_law,
    table_engine,
)
from evodraft.types import Draft, Request, Scores, Verdict
from evodraft.verifiers import Case, CoupledVerifier, RejectionVerifier

HALF = TableLM(torch.tensor([[0.5, 0.5]] * 2, dtype=torch.float64), order=1)
TARGET = TableLM.random(3, order=2, seed=1)
DRAFT = TableLM.random(3, order=2, seed=2)
Q = [0.9, 0.1]  # the draft law of the textbook examples


def request(num_tokens: int = 1, name: str = "a", **more) -> Request:
    return Request(name, (0,), SamplingParams(max_new_tokens=num_tokens, temperature=1.0), seed=ord(name), **more)


def first_token(run: Callable[[EnumeratingStream], int]) -> tuple[Fraction, ...]:
    law = enumerate_outcomes(run)
    return tuple(law.get(token_id, Fraction(0)) for token_id in range(2))


def verify(draft: Draft, stream: EnumeratingStream, keys: RequestKeys | None = None, p: Sequence[float] = (0.5, 0.5)):
    """The first token that comes of a draft under the law `p`."""
    rows = torch.tensor([p] * (draft.num_tokens + 1), dtype=torch.float64)
    scores = Scores(rows, processors.EagerLaws(rows))
    case = Case(request(), keys or RequestKeys(0), 1, draft, scores)
    return RejectionVerifier().verify(case, stream).token_ids[0]


def law_of(make_engine: Callable, *requests: Request) -> dict:
    return enumerate_outcomes(lambda stream: outputs(make_engine(stream), requests))


def one_law(table: TableLM, item: Request) -> dict:
    return product_law(plain_law(table, lambda: item))


# --- X1: q is the law the token was drawn from --------------------------------------------------------------------


def test_softmax_as_q_for_an_argmax_draft() -> None:
    wrong = Draft.chain([0], q=torch.tensor([Q], dtype=torch.float64))  # 0 was chosen as the argmax, not drawn
    assert first_token(lambda stream: verify(wrong, stream)) == (Fraction(5, 9), Fraction(4, 9))
    right = Draft.chain([0], q=None)
    assert first_token(lambda stream: verify(right, stream)) == (Fraction(1, 2), Fraction(1, 2))


def test_softmax_as_q_for_an_argmax_draft_in_an_engine(monkeypatch) -> None:
    """A draw that takes the argmax and hands over the law all the same."""

    def draw_argmax(stream, weights, keys, ids=None):
        return weights.argmax(dim=-1) if keys[0].purpose == "draft" else original(stream, weights, keys, ids)

    original = EnumeratingStream.draw
    monkeypatch.setattr(EnumeratingStream, "draw", draw_argmax)
    item = request(2)
    wrong = law_of(lambda stream: _engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 3), stream), item)
    assert wrong != one_law(TARGET, item)


# --- X2: whether a token is verified does not depend on it --------------------------------------------------------


def test_value_dependent_dropping() -> None:
    def run(stream: EnumeratingStream) -> int:
        keys = RequestKeys(0)
        q = torch.tensor([Q], dtype=torch.float64)
        token_id = int(stream.draw(q, [keys.next("draft")])[0])
        draft = Draft.chain([token_id], q) if Q[token_id] >= 0.5 else Draft.chain([])
        return verify(draft, stream, keys)

    assert first_token(run) == (Fraction(11, 20), Fraction(9, 20))


def test_value_dependent_dropping_in_an_engine(monkeypatch) -> None:
    """Tokens with q < 1/2 are dropped between draw and verification."""

    def draw_and_drop(self, sessions, plans):
        drafts = original(self, sessions, plans)
        return [
            draft if draft.q is None or draft.q[0, draft.token_ids[0]] >= 0.5 else Draft.chain([]) for draft in drafts
        ]

    original = DraftRound.draw
    monkeypatch.setattr(DraftRound, "draw", draw_and_drop)
    drafter = ScriptedDrafter(lambda context: Q, vocab_size=2)
    law = law_of(lambda stream: _engine(HALF, drafter, stream, ScriptedController([1])), request(2))
    first = sum(mass for ((token_id, *_),), mass in law.items() if token_id == 0)
    assert first == Fraction(11, 20)
    assert law != one_law(HALF, request(2))


def test_budget_after_the_draw(monkeypatch) -> None:
    """Two sequences are drafted and only the likelier token is verified; each of both is as often biased."""

    def draw_and_choose(self, sessions, plans):
        drafts = original(self, sessions, plans)
        if any(draft.q is None for draft in drafts):
            return drafts
        likely = [draft.q[0, draft.token_ids[0]].item() for draft in drafts]
        best = likely.index(max(likely))
        return [draft if row == best else Draft.chain([]) for row, draft in enumerate(drafts)]

    original = DraftRound.draw
    monkeypatch.setattr(DraftRound, "draw", draw_and_choose)
    drafter = ScriptedDrafter(lambda context: Q if len(context) == 1 else None, vocab_size=2)
    items = [request(2, "a"), request(2, "b")]
    law = law_of(lambda stream: _engine(HALF, drafter, stream, ScriptedController([1])), *items)
    zeros = [sum(mass for paths, mass in law.items() if paths[row][0] == 0) for row in range(2)]
    assert sum(zeros) / 2 == Fraction(21, 40)
    assert law != product_law(*(plain_law(HALF, lambda item=item: item) for item in items))


# --- X14: noise is never used twice -------------------------------------------------------------------------------


def test_reused_key_is_refused(monkeypatch) -> None:
    def next_without_counting(self, purpose):
        return sampling.NoiseKey(self.seed, self.sample_index, purpose, 1)

    monkeypatch.setattr(RequestKeys, "next", next_without_counting)
    with pytest.raises(ReusedKeyError, match="used twice"):
        law_of(lambda stream: _engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 3), stream), request(3))


def test_the_noise_of_two_requests_is_not_shared() -> None:
    """Equal seeds of different requests: an enumeration must give them different ones."""
    items = [request(2, "a"), dataclasses.replace(request(2, "a"), request_id="b")]
    with pytest.raises(ReusedKeyError):
        law_of(lambda stream: _engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 3), stream), *items)


@pytest.mark.parametrize(("is_reused", "wanted"), [(True, Fraction(3, 4)), (False, Fraction(1, 2))])
def test_redrawing_a_position_with_the_same_noise(is_reused, wanted) -> None:
    """The drafter adapts to an unverified draft, and the position is drawn again."""

    def run(stream: EnumeratingStream) -> int:
        keys = RequestKeys(0)
        half = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
        first = int(stream.draw(half, [keys.next("draft")])[0])  # 0 iff the noise is below one half
        q = half if first == 0 else torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        # the same noise: below one half it says 0 under (1/2, 1/2), above it says 0 under (1, 0)
        second = 0 if is_reused else int(stream.draw(q, [keys.next("draft")])[0])
        return verify(Draft.chain([second], q), stream, keys)

    assert first_token(run)[0] == wanted


# --- X9: the slice of a vocabulary --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_normalised", [True, False])
def test_q_of_a_slice(is_normalised) -> None:
    """Ids 0 and 1 of three are active; the full law was (1/4, 1/4, 1/2)."""
    p = (0.25, 0.5, 0.25)
    drawn_from = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    told = drawn_from if is_normalised else torch.tensor([[0.25, 0.25, 0.0]], dtype=torch.float64)

    def run(stream: EnumeratingStream) -> int:
        keys = RequestKeys(0)
        token_id = int(stream.draw(drawn_from, [keys.next("draft")])[0])
        return verify(Draft.chain([token_id], told), stream, keys, p)

    law = enumerate_outcomes(run)
    assert (law == {0: Fraction(1, 4), 1: Fraction(1, 2), 2: Fraction(1, 4)}) is is_normalised


@pytest.mark.parametrize("is_summed", [True, False])
def test_duplicate_id_in_a_row_map(is_summed) -> None:
    """Rows 1 and 2 of a draft head both mean id 1; a scatter keeps one of them, a sum is right."""
    p = (0.25, 0.5, 0.25)
    rows, row_to_id = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), torch.tensor([0, 1, 1])
    q = torch.zeros(3, dtype=torch.float64)
    q = q.index_add(0, row_to_id, rows) if is_summed else q.scatter(0, row_to_id, rows)

    def run(stream: EnumeratingStream) -> int:
        keys = RequestKeys(0)
        row = int(stream.draw(rows[None], [keys.next("draft")])[0])
        return verify(Draft.chain([int(row_to_id[row])], q[None]), stream, keys, p)

    law = enumerate_outcomes(run)
    assert (law == {0: Fraction(1, 4), 1: Fraction(1, 2), 2: Fraction(1, 4)}) is is_summed


# --- X10: processors ----------------------------------------------------------------------------------------------


class Eager(RejectionVerifier):
    """Asks for the laws of all nodes before it judges the first."""

    def verify(self, case: Case, stream) -> Verdict:
        ids = case.draft.token_ids
        rows = torch.stack([case.scores.laws.at(node - 1, ids[:node]) for node in range(len(ids) + 1)])
        scores = Scores(case.scores.logits, processors.EagerLaws(rows))
        return super().verify(dataclasses.replace(case, scores=scores), stream)


class FavouringByCalls:
    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        bonus = torch.zeros_like(scores)
        bonus[0, self.num_calls % 3] = math.log(2)
        return scores + bonus


@pytest.mark.parametrize("make_verifier", [RejectionVerifier, Eager])
def test_processors_run_past_the_first_rejection(make_verifier) -> None:
    def make() -> Request:
        return request(3, logits_processors=(FavouringByCalls(),))

    def run(stream: EnumeratingStream):
        drafter = ModelDrafter(TableDecoder(DRAFT), 3)
        engine = table_engine(TARGET, drafter, ScriptedController([2]), make_verifier(), stream=stream)
        return outputs(engine, [make()])

    is_exact = enumerate_outcomes(run) == product_law(plain_law(TARGET, make))
    assert is_exact is (make_verifier is RejectionVerifier)


@pytest.mark.parametrize("make_verifier", [RejectionVerifier, Eager])
def test_the_conformance_check_sees_it_too(make_verifier) -> None:
    if make_verifier is RejectionVerifier:
        check_verifier(make_verifier)
        return
    with pytest.raises(AssertionError, match="were asked for"):
        check_verifier(make_verifier)


# --- the rest of the line -----------------------------------------------------------------------------------------


def test_recovering_from_p_itself(monkeypatch) -> None:
    monkeypatch.setattr("evodraft.verifiers.rejection.residual", lambda p, q: sampling.Residual(p, False))
    item = request(2)
    assert law_of(lambda s: _engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 3), s), item) != one_law(TARGET, item)


def test_a_target_cache_that_is_not_rolled_back(monkeypatch) -> None:
    monkeypatch.setattr(Target, "keep", lambda self, session: None)
    item = request(4)
    assert law_of(lambda s: _engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 3), s), item) != one_law(TARGET, item)


def test_a_draft_that_goes_on_after_its_law(monkeypatch) -> None:
    """q rows shifted by one against the tokens: what a drafter that mixes choices and draws could cause."""

    def shifted(self, sessions, plans):
        return [
            draft if draft.q is None else dataclasses.replace(draft, q=draft.q.roll(1, dims=0))
            for draft in original(self, sessions, plans)
        ]

    original = DraftRound.draw
    monkeypatch.setattr(DraftRound, "draw", shifted)
    item = request(3)
    dense = TableLM(torch.tensor([[4, 3, 1], [1, 4, 3], [3, 1, 4]], dtype=torch.float64) / 8, order=1)
    drafter = ModelDrafter(TableDecoder(dense), 3)
    assert law_of(lambda s: _engine(TARGET, drafter, s), item) != one_law(TARGET, item)


def test_an_end_that_is_not_cut(monkeypatch) -> None:
    """The stop id is committed with whatever was accepted after it."""
    original = Session.commit

    def commit_all(self, draft, verdict, logits, now_s):
        commit = original(self, draft, verdict, logits, now_s)
        self.token_ids += verdict.token_ids[len(commit.token_ids) :]
        return commit

    monkeypatch.setattr(Session, "commit", commit_all)
    item = request(4, stop_checks=(lambda token_ids: token_ids[-1] == 1,))
    assert law_of(lambda s: _engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 3), s), item) != one_law(TARGET, item)


# --- coupled ------------------------------------------------------------------------------------------------------


class FreshKeys(RequestKeys):
    def coupled(self, position: int) -> sampling.NoiseKey:
        return self.next("coupled")


class KeyedByDraw(CoupledVerifier):
    """Fresh noise for every draw: exact in law, but no longer a function of the seed."""

    def verify(self, case: Case, stream) -> Verdict:
        fresh = FreshKeys(case.keys.seed, num_issued=1000 * case.position)
        return super().verify(dataclasses.replace(case, keys=fresh), stream)


class KeyedOnePlaceOff(CoupledVerifier):
    """Forgets the prompt's last token in the position."""

    def verify(self, case: Case, stream) -> Verdict:
        return super().verify(dataclasses.replace(case, position=case.position - 1), stream)


class TrustsTheDraft(CoupledVerifier):
    """Emits the draft's token without asking the target."""

    def verify(self, case: Case, stream) -> Verdict:
        if not case.draft.num_tokens:
            return super().verify(case, stream)
        return Verdict((), case.draft.token_ids[:1])


@pytest.mark.parametrize("make_verifier", [CoupledVerifier, KeyedByDraw, KeyedOnePlaceOff, TrustsTheDraft])
def test_coupled_tokens_are_those_of_the_definition(make_verifier) -> None:
    items = [request(12, name) for name in "abcd"]
    drafter = ModelDrafter(TableDecoder(DRAFT), 3)
    tokens = outputs(table_engine(TARGET, drafter, ScriptedController([3]), make_verifier()), items)
    wanted = tuple(coupled_tokens(TARGET, lambda item=item: item) for item in items)
    assert (tokens == wanted) is (make_verifier is CoupledVerifier)


def _engine(table: TableLM, drafter, stream: EnumeratingStream, controller=None):
    if isinstance(drafter, ModelDrafter):
        drafter = ModelDrafter(TableDecoder(drafter.decoder.table), drafter.vocab_size)  # empty slots for every run
    return table_engine(table, drafter, controller or FixedController(), stream=stream)
