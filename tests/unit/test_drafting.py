"""Drafting: who is asked when, which law goes with which token, and where a draft ends."""

from __future__ import annotations

import pytest
import torch

from evodraft.drafters.base import DraftStep, Grown, Growth, Place
from evodraft.drafting import DraftRound
from evodraft.errors import CapacityError, ConfigError
from evodraft.params import SamplingParams
from evodraft.sampling import HashedStream, NoiseKey, exponential_noise
from evodraft.session import Session
from evodraft.testing import ScriptedController, ScriptedDrafter, SignalController
from evodraft.testing.slices import SlicedDrafter
from evodraft.types import ROOT, Plan, Request, Signals, Versions
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
    round_ = DraftRound(drafter, controller, verifier or RejectionVerifier(), stream or HashedStream(), give_up, 3)
    return round_.draw(sessions, [width if isinstance(width, Plan) else Plan(width) for width in widths]), drafter


class Recording(HashedStream):
    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "log", [])

    def draw(self, weights: torch.Tensor, keys: list[NoiseKey], ids=None) -> torch.Tensor:
        self.log.append((weights.clone(), list(keys)))
        return super().draw(weights, keys, ids)


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


# --- slices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verifier", [RejectionVerifier(), CoupledVerifier()])
def test_a_slice_is_drawn_with_the_noise_of_its_ids_and_told_as_a_whole_law(verifier) -> None:
    sliced = SlicedDrafter(ScriptedDrafter(lambda context: LAW, 3), [0, 2])
    stream = Recording()
    drafts, _ = draw(sliced, [session(0), session(1)], [4, 2], verifier=verifier, stream=stream)
    for row, draft in enumerate(drafts):
        for node, law in enumerate(draft.q):
            assert law.tolist() == pytest.approx([2 / 3, 0.0, 1 / 3])
            noise = exponential_noise([stream.log[node][1][row]], 3)[0]
            assert draft.token_ids[node] == int((noise / law).argmin())


def test_signals_of_a_slice_are_those_of_its_columns() -> None:
    sliced = SlicedDrafter(ScriptedDrafter(lambda context: LAW, 3), [1, 2])
    (draft,), _ = draw(sliced, [session()], [3], controller=SignalController(lambda signals: True, width=3))
    assert [noted.probability for noted in draft.signals] == pytest.approx([0.5] * 3)
    assert {noted.top1 for noted in draft.signals} == {0.5}


def test_a_greedy_slice_has_no_law() -> None:
    sliced = SlicedDrafter(ScriptedDrafter(lambda context: LAW, 3), [1, 2])
    (draft,), _ = draw(sliced, [session(temperature=0.0)], [2])
    assert (draft.token_ids, draft.q) == ((1, 1), None)


# --- growing ------------------------------------------------------------------------------------------------------

SURE = Signals(0.1, 0.9, 0.8, 0.9)


class Growing(ScriptedDrafter):
    """Grows what it is told, and notes what it was asked."""

    def __init__(self, *grown: Grown) -> None:
        super().__init__(lambda context: LAW, 3)
        self.grown = grown
        self.asked = []

    def grow(self, rows, growths, rank, want_signals):
        self.asked.append(([row.slot for row in rows], list(growths), rank, want_signals))
        return list(self.grown[: len(rows)])


def chain(*token_ids: int, signals=()) -> Grown:
    return Grown(token_ids, tuple(range(ROOT, len(token_ids) - 1)), tuple(signals))


def test_greedy_chains_and_all_trees_are_grown_and_the_others_drawn() -> None:
    drafter = Growing(chain(1, 2), Grown((0, 1), (ROOT, ROOT)), Grown((2, 0, 1), (ROOT, 0, 0)))
    sessions = [session(0, temperature=0.0), session(1), session(2), session(3, temperature=0.0), session(4)]
    drafts, _ = draw(drafter, sessions, [2, 3, Plan(2, 5), Plan(3, 7), 0])
    ((slots, growths, rank, want_signals),) = drafter.asked
    assert (slots, growths) == ([0, 2, 3], [Growth(2, 2), Growth(2, 5), Growth(3, 7)])
    assert rank is not None
    assert not want_signals
    assert [draft.token_ids for draft in drafts if draft.q is None] == [(1, 2), (0, 1), (2, 0, 1), ()]
    assert [draft.parents for draft in drafts] == [(-1, 0), (-1, 0, 1), (-1, -1), (-1, 0, 0), ()]
    assert drafts[1].q.shape == (3, 3)


def test_greedy_rows_alone_are_ranked_by_the_drafter_itself() -> None:
    drafter = Growing(chain(1), chain(2))
    draw(drafter, [session(0, temperature=0.0), session(1, temperature=0.0)], [1, Plan(1, 4)])
    assert drafter.asked[0][2] is None


def test_who_may_not_draft_is_not_grown() -> None:
    drafter = Growing()
    never = SignalController(lambda signals: False, width=4)
    drafts, _ = draw(drafter, [session(temperature=0.0)], [4], controller=never)
    assert (drafts[0].num_tokens, drafter.asked) == (0, [])
    drafts, _ = draw(Growing(), [session()], [0])
    assert drafts[0].num_tokens == 0


def test_the_controller_cuts_a_grown_chain_with_the_signals_of_the_tokens_before() -> None:
    asked = []
    noted = [SURE._replace(probability=value) for value in (0.9, 0.2, 0.8)]

    def rule(signals) -> bool:
        asked.append(list(signals))
        return not signals or signals[-1].probability > 0.5

    drafter = Growing(chain(1, 0, 2, signals=noted))
    (draft,), _ = draw(drafter, [session(temperature=0.0)], [3], controller=SignalController(rule, width=3))
    assert draft.token_ids == (1, 0)
    assert draft.signals == tuple(noted[:2])
    assert asked == [[], noted[:1], noted[:2]]
    assert drafter.asked[0][3]


def test_a_short_chain_ends_there() -> None:
    drafts, drafter = draw(
        Growing(chain(1), chain()), [session(0, temperature=0.0), session(1, temperature=0.0)], [4, 4]
    )
    assert [draft.token_ids for draft in drafts] == [(1,), ()]
    assert drafter.contexts == []


def test_nothing_stands_below_a_token_that_ends_the_request() -> None:
    grown = Grown((1, 0, 2, 1, 2, 0), (ROOT, ROOT, 0, 1, 3, 2), (SURE,) * 6)
    options = {"stop": [1], "temperature": 0.0}
    (draft,), _ = draw(Growing(grown), [session(**options)], [Plan(3, 6)])
    assert (draft.token_ids, draft.parents) == ((1, 0, 1), (ROOT, ROOT, 1))
    assert len(draft.signals) == 3
    (draft,), _ = draw(Growing(grown), [session(**options, min_new_tokens=1)], [Plan(3, 6)])
    assert (draft.token_ids, draft.parents) == ((1, 0, 2, 1, 0), (ROOT, ROOT, 0, 1, 2))
    (draft,), _ = draw(Growing(chain(0, 1, 2)), [session(**options)], [3])
    assert draft.token_ids == (0, 1)


@pytest.mark.parametrize(
    ("grown", "plan"),
    [
        (chain(1, 1, 1), 2),
        (chain(1, 1, 1), Plan(2, 9)),
        (Grown((0, 1, 2, 0), (ROOT, ROOT, ROOT, 0)), Plan(2, 3)),
        (Grown((0, 1), (ROOT, ROOT)), 2),
    ],
)
def test_what_is_grown_beyond_the_plan_is_refused(grown, plan) -> None:
    with pytest.raises(ConfigError, match=r"grew \d tokens of depth .* repair the drafter"):
        draw(Growing(grown), [session(temperature=0.0)], [plan])


@pytest.mark.parametrize("most", [0, 1, 2])
def test_who_does_not_fit_while_growing_is_given_up(most) -> None:
    class CrowdedGrowth(Growing):
        def grow(self, rows, growths, rank, want_signals):
            if len(rows) > most:
                raise CapacityError("full")
            return super().grow(rows, growths, rank, want_signals)

    given_up = []
    sessions = [session(slot, temperature=0.0) for slot in range(3)]
    drafter = CrowdedGrowth(chain(1, 2), Grown((0, 1), (ROOT, ROOT)))
    drafts, _ = draw(drafter, sessions, [2, Plan(2, 4), 2], give_up=lambda one, _: given_up.append(one))
    assert given_up == sessions[most:][::-1]
    assert [draft.num_tokens for draft in drafts] == [2 * (row < most) for row in range(3)]


class Asking(Growing):
    """Ranks rows of given logits."""

    def __init__(self, logits: torch.Tensor, ids: torch.Tensor | None, places: list[Place]) -> None:
        super().__init__(*[chain()] * 9)
        self.question = (logits, ids, places)

    def grow(self, rows, growths, rank, want_signals):
        self.weights = rank(*self.question)
        return super().grow(rows, growths, rank, want_signals)


LOGITS = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 3.0, 1.0], [1.0, 1.5, 0.0]])


def test_children_are_ranked_by_the_law_that_verification_uses() -> None:
    """Greedy ones by the raw law: the one-hot law ranks nobody but the first."""
    drafter = Asking(LOGITS, None, [Place(0, 0), Place(1, 1), Place(2, 0)])
    sessions = [session(0, temperature=0.5), session(1, temperature=0.0), session(2, top_k=2)]
    draw(drafter, sessions, [Plan(2, 4)] * 3)
    wanted = [(LOGITS[0] * 2).softmax(-1), LOGITS[1].softmax(-1), torch.tensor([1.0, 1.5, -torch.inf]).softmax(-1)]
    assert torch.allclose(drafter.weights.exp(), torch.stack(wanted))
    assert drafter.weights[0, 2] == -torch.inf


@pytest.mark.parametrize("ids", [None, torch.tensor([1, 4, 7])])
def test_coupled_children_are_ranked_with_the_noise_of_their_position(ids) -> None:
    drafter = Asking(LOGITS, ids, [Place(1, 2), Place(0, 0), Place(0, 1)])
    sessions = [session(0, temperature=0.0), session(1)]
    draw(drafter, sessions, [Plan(2, 4)] * 2, verifier=CoupledVerifier())
    words = None if ids is None else ids.to(torch.int32)
    noise = exponential_noise([sessions[1].keys.coupled(2 + 2)], 3, ids=words)[0]
    assert torch.allclose(drafter.weights[0], LOGITS[0].log_softmax(-1) - noise.log())
    assert torch.allclose(drafter.weights[1:], LOGITS[1:].log_softmax(-1))
    assert int(drafter.weights[0].argmax()) == int((noise / LOGITS[0].softmax(-1)).argmin())
