"""Drafting: who is asked when, which law goes with which token, and where a draft ends."""

from __future__ import annotations

import pytest
import torch

from evodraft.drafters.base import DraftStep
from evodraft.drafting import DraftRound
from evodraft.errors import CapacityError
from evodraft.params import SamplingParams
from evodraft.sampling import HashedStream, NoiseKey
from evodraft.session import Session
from evodraft.testing import ScriptedController, ScriptedDrafter, SignalController
from evodraft.types import Plan, Request, Versions
from evodraft.verifiers import CoupledVerifier, RejectionVerifier

LAW = [0.5, 0.25, 0.25]


def session(slot: int = 0, prompt=(1, 2), *, stop=(), **options) -> Session:
    params = SamplingParams(**{"temperature": 1.0, **options})
    made = Session(Request(f"request {slot}", prompt, params, seed=slot, stop_token_ids=frozenset(stop)))
    made.slot = slot
    return made


def nobody(session: Session, error: CapacityError) -> None:
    raise AssertionError("nobody was to be given up") from error


def draw(script, sessions, widths, *, controller=None, verifier=None, stream=None, give_up=nobody):
    drafter = script if hasattr(script, "step") else ScriptedDrafter(script, vocab_size=3)
    controller = controller or ScriptedController([9])
    round_ = DraftRound(drafter, controller, verifier or RejectionVerifier(), stream or HashedStream(), give_up)
    return round_.draw(sessions, [Plan(width) for width in widths]), drafter


class Recording(HashedStream):
    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "log", [])

    def draw(self, weights: torch.Tensor, keys: list[NoiseKey]) -> torch.Tensor:
        self.log.append((weights.clone(), list(keys)))
        return super().draw(weights, keys)


def test_each_row_is_drafted_to_its_own_width() -> None:
    drafts, drafter = draw(lambda context: LAW, [session(0), session(1), session(2)], [2, 0, 3])
    assert [draft.num_tokens for draft in drafts] == [2, 0, 3]
    assert [draft.parents for draft in drafts] == [(-1, 0), (), (-1, 0, 1)]
    assert len(drafter.contexts) == 5


def test_nothing_planned_asks_nobody() -> None:
    drafts, drafter = draw(lambda context: LAW, [session()], [0])
    assert drafts[0].q is None
    assert drafter.contexts == []


def test_every_token_is_drawn_from_the_law_that_is_handed_over() -> None:
    stream = Recording()
    drafts, _ = draw(lambda context: LAW, [session(0), session(1, temperature=0.5)], [2, 2], stream=stream)
    for step, (weights, keys) in enumerate(stream.log):
        for row, draft in enumerate(drafts):
            assert torch.equal(draft.q[step], weights[row])
            assert keys[row].seed == row
    squares = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64) / 6
    assert torch.allclose(drafts[1].q[0], squares)


def test_the_verifier_says_which_noise() -> None:
    for verifier, purpose in ((RejectionVerifier(), "draft"), (CoupledVerifier(), "coupled")):
        stream = Recording()
        draw(lambda context: LAW, [session()], [3], verifier=verifier, stream=stream)
        keys = [keys[0] for _, keys in stream.log]
        assert {key.purpose for key in keys} == {purpose}
        if purpose == "coupled":
            assert [key.ordinal for key in keys] == [2, 3, 4]


def test_the_drafter_sees_what_was_drawn() -> None:
    (draft,), drafter = draw(lambda context: LAW, [session()], [3])
    assert drafter.contexts == [(1, 2, *draft.token_ids[:step]) for step in range(3)]


def test_choices_have_no_law() -> None:
    drafts, _ = draw(lambda context: len(context) % 3, [session(0), session(1, (1,))], [3, 2])
    assert [draft.token_ids for draft in drafts] == [(2, 0, 1), (1, 2)]
    assert [draft.q for draft in drafts] == [None, None]
    assert drafts[0].signals == (None, None, None)


def test_nothing_to_offer_ends_a_draft() -> None:
    drafts, drafter = draw(lambda context: 0 if len(context) < 4 else None, [session(0), session(1, (1,))], [5, 5])
    assert [draft.num_tokens for draft in drafts] == [2, 3]
    assert len(drafter.contexts) == 3 + 4


def test_a_choice_among_draws_gets_its_one_hot_law() -> None:
    def script(context):
        return 2 if len(context) % 2 == 0 else LAW

    for prompt in ((1, 2), (1,)):
        (draft,), _ = draw(script, [session(0, prompt)], [4])
        wanted = [[0.0, 0.0, 1.0] if (len(prompt) + step) % 2 == 0 else LAW for step in range(4)]
        assert draft.q.tolist() == wanted
        assert all(token_id == 2 for token_id, law in zip(draft.token_ids, wanted, strict=True) if law != LAW)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_unusable_logits_end_the_draft_before_the_draw(value) -> None:
    class Broken(ScriptedDrafter):
        def step(self, rows):
            logits = super().step(rows).logits
            for index, row in enumerate(rows):
                if row.length >= 4:
                    logits[index] = value
            return DraftStep(logits=logits)

    stream = Recording()
    sessions = [session(0), session(1, (1,)), session(2, (1, 1, 1, 1))]
    drafts, _ = draw(Broken(lambda context: LAW, 3), sessions, [4, 4, 4], stream=stream)
    assert [draft.num_tokens for draft in drafts] == [2, 3, 0]
    assert all(bool(weights.isfinite().all()) for weights, _ in stream.log)
    assert sessions[2].keys.num_issued == 0


def test_the_controller_is_asked_before_every_draw_with_what_was_drawn() -> None:
    asked = []

    def rule(signals) -> bool:
        asked.append([signal.probability for signal in signals])
        return len(signals) < 2

    (draft,), _ = draw(lambda context: LAW, [session()], [4], controller=SignalController(rule, width=4))
    assert draft.num_tokens == 2
    drawn = [LAW[token_id] for token_id in draft.token_ids]
    assert asked == [pytest.approx(drawn[:step]) for step in range(3)]


def test_signals_are_of_the_raw_law_even_for_greedy_requests() -> None:
    controller = SignalController(lambda signals: True, width=1)
    (draft,), _ = draw(lambda context: LAW, [session(temperature=0.0)], [1], controller=controller)
    assert draft.token_ids == (0,)
    assert draft.q is None  # one-hot
    assert draft.signals[0].probability == pytest.approx(0.5)


def test_signals_are_made_only_if_wanted() -> None:
    (draft,), _ = draw(lambda context: LAW, [session()], [2])
    assert draft.signals == (None, None)


@pytest.mark.parametrize(("minimum", "wanted"), [(0, (0, 1)), (1, (0, 1)), (2, (0, 1, 0, 1)), (9, (0, 1, 0, 1, 0))])
def test_nothing_is_drafted_after_a_stop_token_that_counts(minimum, wanted) -> None:
    one = session(0, (1, 2), stop=[1], min_new_tokens=minimum)
    (draft, other), _ = draw(lambda context: len(context) % 2, [one, session(1, (2, 2))], [5, 5])
    assert draft.token_ids == wanted
    assert other.num_tokens == 5


def test_a_draft_carries_the_versions_of_its_drafter() -> None:
    drafter = ScriptedDrafter(lambda context: LAW, 3)
    drafter.versions = Versions(weights=3, vocabulary=1)
    (draft,), _ = draw(drafter, [session()], [1])
    assert draft.versions == (3, 1)


class Crowded(ScriptedDrafter):
    """From its second step on, has memory for `most` rows."""

    most = 1
    num_steps = 0

    def step(self, rows):
        self.num_steps += 1
        if self.num_steps > 1 and len(rows) > self.most:
            raise CapacityError("full")
        return super().step(rows)


@pytest.mark.parametrize("script", [lambda context: LAW, lambda context: 1], ids=["drawn", "chosen"])
@pytest.mark.parametrize("most", [0, 1, 2])
def test_who_does_not_fit_into_memory_is_given_up_and_what_is_drawn_stays(most, script) -> None:
    sessions, given_up, stream = [session(slot) for slot in range(3)], [], Recording()
    expected, _ = draw(script, sessions[:1], [3])
    crowded = Crowded(script, vocab_size=3)
    crowded.most = most
    sessions[0].keys.num_issued = 0
    drafts, _ = draw(crowded, sessions, [3, 1, 3], stream=stream, give_up=lambda one, _: given_up.append(one))
    assert given_up == {0: [sessions[2], sessions[0]], 1: [sessions[2]], 2: []}[most]
    assert [draft.num_tokens for draft in drafts] == {0: [1, 1, 1], 1: [3, 1, 1], 2: [3, 1, 3]}[most]
    assert drafts[0].token_ids == expected[0].token_ids[: drafts[0].num_tokens]
    keys = [key for _, keys in stream.log for key in keys]
    assert len(keys) == len(set(keys))
