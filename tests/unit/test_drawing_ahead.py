"""Chains that a drafter draws by itself: what it is told, who is asked before, and where what it drew is cut."""

from __future__ import annotations

import pytest
import torch

from evodraft.drafters.base import Drawn
from evodraft.drafting import DraftRound
from evodraft.errors import CapacityError
from evodraft.params import SamplingParams
from evodraft.sampling import HashedStream, hashed_uniform
from evodraft.session import Session
from evodraft.testing import EnumeratingStream, ScriptedController, ScriptedDrafter, SignalController
from evodraft.types import Plan, Request
from evodraft.verifiers import CoupledVerifier, RejectionVerifier

LAW = [0.5, 0.25, 0.125, 0.125]


def session(slot: int = 0, *, stop=(), **options) -> Session:
    params = SamplingParams(**{"temperature": 1.0, **options})
    made = Session(Request(f"{slot}", (1, 2), params, seed=slot, stop_token_ids=frozenset(stop)))
    made.slot = slot
    return made


class Drawing(ScriptedDrafter):
    """Draws by itself, from LAW whatever the context; leaves out the slots it is told to."""

    def __init__(self, *, ids=None, left_out=(), fails_above=9) -> None:
        super().__init__(lambda context: LAW, vocab_size=4)
        self.ids, self.left_out, self.fails_above = ids, left_out, fails_above
        self.asked = []

    def draw(self, rows, draws):
        self.asked.append([(row.slot, one) for row, one in zip(rows, draws, strict=True)])
        if len(rows) > self.fails_above:
            raise CapacityError("full")
        return [None if row.slot in self.left_out else self._drawn(one) for row, one in zip(rows, draws, strict=True)]

    def _drawn(self, draws) -> Drawn:
        law = torch.tensor(LAW) if self.ids is None else torch.tensor([0.5, 0.5])
        q = (law.log() / draws.temperature).softmax(dim=-1).expand(len(draws.key_words), -1)
        ids = torch.arange(4) if self.ids is None else torch.tensor(self.ids)
        noise = (
            hashed_uniform(torch.tensor(draws.key_words, dtype=torch.int32), ids.to(torch.int32)).neg().log1p().neg()
        )
        token_ids = ids[(noise / q).argmin(dim=-1)].tolist()
        return Drawn(tuple(token_ids), q, None if self.ids is None else ids)


def nobody(session, error) -> None:
    raise AssertionError("nobody was to be given up") from error


def draw(drafter, sessions, plans, *, controller=None, verifier=None, stream=None, give_up=nobody):
    parts = controller or ScriptedController([9]), verifier or RejectionVerifier(), stream or HashedStream()
    round_ = DraftRound(drafter, *parts, give_up, 4)
    return round_.draw(sessions, [plan if isinstance(plan, Plan) else Plan(plan) for plan in plans])


@pytest.mark.parametrize("verifier", [RejectionVerifier(), CoupledVerifier()])
def test_drafts_are_those_of_steps(verifier) -> None:
    options = [{}, {"temperature": 0.6}, {}]
    drafter, plain = Drawing(), ScriptedDrafter(lambda context: LAW, vocab_size=4)
    sessions, others = ([session(slot, **more) for slot, more in enumerate(options)] for _ in range(2))
    found = draw(drafter, sessions, [4, 2, 0], verifier=verifier)
    wanted = draw(plain, others, [4, 2, 0], verifier=verifier)
    assert [one.token_ids for one in found] == [one.token_ids for one in wanted]
    assert [one.signals for one in found] == [one.signals for one in wanted]
    for one, other in zip(found[:2], wanted, strict=False):
        assert torch.allclose(one.q.double(), other.q.double())
    assert found[2].q is None
    assert drafter.contexts == []
    assert [(slot, one.temperature, len(one.key_words)) for slot, one in drafter.asked[0]] == [(0, 1.0, 4), (1, 0.6, 2)]
    assert [one.keys.num_issued for one in sessions] == [one.keys.num_issued for one in others]


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({"temperature": 0.0}, 3),
        ({"top_k": 2}, 3),
        ({"top_p": 0.5}, 3),
        ({"min_p": 0.1}, 3),
    ],
)
def test_other_laws_go_by_steps_beside_those_that_are_drawn(options, plan) -> None:
    drafter = Drawing()
    drafts = draw(drafter, [session(0, **options), session(1)], [plan, plan])
    assert [[slot for slot, _ in call] for call in drafter.asked] == [[1]]
    assert [draft.num_tokens for draft in drafts] == [3, 3]
    assert len(drafter.contexts) == 3


def test_a_controller_that_looks_at_signals_is_asked_between_the_draws() -> None:
    drafter = Drawing()
    (draft,) = draw(drafter, [session()], [4], controller=SignalController(lambda signals: True, width=4))
    assert drafter.asked == []
    assert draft.num_tokens == 4
    assert None not in draft.signals


def test_a_stream_without_words_goes_by_steps() -> None:
    drafter = Drawing()
    (draft,) = draw(drafter, [session()], [2], stream=EnumeratingStream())
    assert drafter.asked == []
    assert draft.num_tokens == 2


def test_the_controller_is_asked_as_for_steps_but_before() -> None:
    class Counting(ScriptedController):
        def __init__(self) -> None:
            super().__init__([9])
            self.asked = []

        def more(self, rows):
            self.asked.append([(row.request_id, list(row.signals)) for row in rows])
            return [row.num_drawn < 2 + int(row.request_id) for row in rows]

    calls = []
    for drafter in (Drawing(), ScriptedDrafter(lambda context: LAW, vocab_size=4)):
        controller = Counting()
        drafts = draw(drafter, [session(0), session(1)], [6, 6], controller=controller)
        assert [draft.num_tokens for draft in drafts] == [2, 3]
        calls.append(controller.asked)
    assert calls[0] == calls[1]


def test_nobody_draws_further_than_planned() -> None:
    class Boundless(ScriptedController):
        def more(self, rows):
            return [True for _ in rows]

    assert draw(Drawing(), [session()], [3], controller=Boundless([3]))[0].num_tokens == 3


@pytest.mark.parametrize("min_new_tokens", [0, 3])
def test_what_stands_behind_a_stop_token_is_cut(min_new_tokens) -> None:
    whole = draw(Drawing(), [session(5)], [9])[0]
    stop = whole.token_ids[1]
    first = next(i for i, token_id in enumerate(whole.token_ids) if token_id == stop and i >= min_new_tokens)
    (cut,) = draw(Drawing(), [session(5, stop={stop}, min_new_tokens=min_new_tokens)], [9])
    assert cut.token_ids == whole.token_ids[: first + 1]
    assert torch.equal(cut.q, whole.q[: first + 1])
    assert len(cut.signals) == first + 1


def test_laws_of_a_slice_are_zero_outside() -> None:
    (draft,) = draw(Drawing(ids=(1, 3)), [session()], [3])
    assert draft.q.tolist() == [[0.0, 0.5, 0.0, 0.5]] * 3
    assert set(draft.token_ids) <= {1, 3}


def test_rows_that_are_left_out_go_by_steps_with_fresh_noise() -> None:
    sessions = [session(slot) for slot in range(3)]
    drafter = Drawing(left_out={1})
    drafts = draw(drafter, sessions, [2, 2, 2])
    assert [draft.num_tokens for draft in drafts] == [2, 2, 2]
    assert len(drafter.contexts) == 2
    assert [one.keys.num_issued for one in sessions] == [2, 4, 2]


def test_a_row_without_a_finite_logit_has_no_draft() -> None:
    class Spoilt(Drawing):
        def _drawn(self, draws):
            return super()._drawn(draws).first(0)

    (draft,) = draw(Spoilt(), [session()], [2])
    assert draft.num_tokens == 0
    assert draft.q is None


def test_whoever_does_not_fit_is_given_up_and_the_others_draw() -> None:
    given_up = []
    drafter = Drawing(fails_above=2)
    sessions = [session(slot) for slot in range(4)]
    drafts = draw(drafter, sessions, [2] * 4, give_up=lambda one, error: given_up.append(one.slot))
    assert given_up == [3, 2]
    assert [draft.num_tokens for draft in drafts] == [2, 2, 0, 0]
    assert drafter.contexts == []
    assert drafter.asked[0][:2] == drafter.asked[-1]
