"""The scripted parts do what their script says."""

from __future__ import annotations

import pytest
import torch

from evodraft.controllers import Progress
from evodraft.drafters.base import CommittedRow, DrafterNeeds, DraftRow, Growth, Place
from evodraft.params import SamplingParams
from evodraft.target import Chunk
from evodraft.testing import (
    CountingClock,
    ScriptedController,
    ScriptedDrafter,
    SignalController,
    SlicedDrafter,
    SwappingLearner,
    TableLM,
    TreeDrafter,
    outputs,
    random_shape,
    run_all,
    table_engine,
)
from evodraft.testing.conformance.samples import sample_feedback
from evodraft.types import Plan, Request, Signals, Update, Versions


def test_scripted_drafter_offers_laws_choices_and_nothing() -> None:
    offers = {(1,): [0.25, 0.75], (0,): 1, (1, 1): None}
    drafter = ScriptedDrafter(lambda context: offers[context], 2, max_length=9, needs=DrafterNeeds(taps=(3,)))
    assert (drafter.max_length, drafter.needs.taps) == (9, (3,))
    rows = [DraftRow(0, [1]), DraftRow(1, [0]), DraftRow(2, [1], [1])]
    assert drafter.step(rows).logits.exp().tolist() == [[0.25, 0.75], [0.0, 1.0], [0.0, 0.0]]
    assert drafter.step(rows[1:]).token_ids == (1, None)
    assert drafter.contexts == [(1,), (0,), (1, 1), (0,), (1, 1)]


def test_scripted_drafter_notes_what_it_is_told() -> None:
    drafter = ScriptedDrafter(lambda context: 0, 2)
    chunk, row = Chunk(0, 0, (1,), {}), CommittedRow(0, 1, {})
    drafter.admit([chunk])
    drafter.commit([row])
    drafter.release(4)
    drafter.apply(Update(Versions(2, 0), lambda context: 1))
    assert (drafter.chunks, drafter.commits, drafter.released) == ([chunk], [row], [4])
    assert (drafter.versions, drafter.step([DraftRow(0, [1])]).token_ids) == ((2, 0), (1,))


def test_scripted_controller_counts_per_request() -> None:
    controller = ScriptedController([3, 1])
    controller.start("a")
    controller.start("b")
    assert [controller.plan(name).width for name in "aaba"] == [3, 1, 3, 1]
    assert controller.more([Progress("a", Plan(1)), Progress("b", Plan(1), [None])]) == [True, False]
    controller.observe(sample_feedback("a", seed=1))
    controller.finish("a")
    assert controller.log == [("start", "a"), ("start", "b"), ("observe", "a"), ("finish", "a")]


def test_scripted_controller_hands_out_plans_as_they_are() -> None:
    controller = ScriptedController([Plan(2, 9), 1])
    controller.start("a")
    assert [controller.plan("a") for _ in range(3)] == [Plan(2, 9), Plan(1), Plan(1)]


SCRIPT = {(1,): [0.1, 0.6, 0.3, 0.0], (1, 1): [0.4, 0.3, 0.2, 0.1], (1, 2): 3, (1, 1, 0): None}


def test_trees_are_grown_from_the_best_tokens_of_each_node() -> None:
    scripted = ScriptedDrafter(lambda context: SCRIPT[context], 4, max_length=9)
    drafter = TreeDrafter(scripted, lambda context, growth: [-1, -1, -1, -1, 0, 1, 1, 0, 4, 3])
    (grown,) = drafter.grow([DraftRow(2, [1])], [Growth(3, 9)], None, True)
    # the fourth child of the root is impossible, the second of token 2 was not offered, nothing comes after 1, 0
    assert grown.token_ids == (1, 2, 0, 0, 3, 1)
    assert grown.parents == (-1, -1, -1, 0, 1, 0)
    assert [signals and round(signals.probability, 3) for signals in grown.signals] == [0.6, 0.3, 0.1, 0.4, None, 0.3]
    assert {(row.slot, row.num_confirmed) for row in scripted.commits} == {(2, 1)}
    (chain,) = drafter.grow([DraftRow(2, [1])], [Growth(2, 2)], None, False)
    assert (chain.token_ids, chain.parents, chain.signals) == ((1, 0), (-1, 0), ())
    assert drafter.max_length == 9


def test_trees_are_ranked_as_the_engine_says() -> None:
    drafter = TreeDrafter(ScriptedDrafter(lambda context: SCRIPT[context], 4), lambda context, growth: [-1, 0, 0])
    asked = []

    def rank(logits: torch.Tensor, ids: torch.Tensor | None, places: list[Place]) -> torch.Tensor:
        asked.extend(places)
        return torch.tensor([[-1.0, 3.0, -2.0, -torch.inf]]) if len(asked) == 1 else -logits

    (grown,) = drafter.grow([DraftRow(0, [1])], [Growth(2, 3)], rank, False)
    assert (grown.token_ids, asked) == ((1, 3, 2), [Place(0, 0), Place(0, 1)])


def test_trees_and_slices_pass_on_what_they_are_told() -> None:
    scripted = ScriptedDrafter(lambda context: [0.5, 0.25, 0.25], 3)
    drafter = TreeDrafter(SlicedDrafter(scripted, [0, 1]), random_shape())
    chunk, row = Chunk(0, 0, (1,), {}), CommittedRow(0, 1, {})
    drafter.admit([chunk])
    drafter.commit([row])
    drafter.release(4)
    assert (scripted.chunks, scripted.commits, scripted.released) == ([chunk], [row], [4])
    drafter.apply(Update(Versions(0, 1), [2]))
    assert drafter.versions == (0, 1)
    assert drafter.step([DraftRow(0, [1])]).ids.tolist() == [2]


@pytest.mark.parametrize("growth", [Growth(1, 3), Growth(3, 9), Growth(2, 2)])
def test_random_shapes_stay_within_their_growth(growth) -> None:
    shapes = [random_shape(5)((1, number), growth) for number in range(60)]
    depths = [0]
    for parents in shapes:
        heights = []
        for parent in parents:
            heights.append(1 if parent == -1 else heights[parent] + 1)
        depths += heights
    assert max(len(parents) for parents in shapes) == growth.num_nodes
    assert max(depths) == growth.depth
    assert shapes == [random_shape(5)((1, number), growth) for number in range(60)]


def test_signal_controller_asks_its_rule_within_the_plan() -> None:
    low, high = Signals(1.0, 0.5, 0.1, 0.2), Signals(0.1, 0.9, 0.8, 0.9)
    controller = SignalController(lambda signals: not signals or signals[-1] is high, width=2)
    rows = [Progress("a", Plan(2), signals) for signals in ([], [high], [low], [high, high])]
    assert controller.more(rows) == [True, True, False, False]
    assert controller.plan("a") == Plan(2)


def test_swapping_learner_makes_one_update_per_new_round() -> None:
    learner = SwappingLearner(lambda feedback: feedback.request_id if feedback.request_id != "c" else None)
    assert learner.step(5.0) is None
    learner.observe(sample_feedback("a", seed=1))
    learner.observe(sample_feedback("b", seed=2))
    assert learner.step(5.0) == Update(Versions(1, 0), "b")
    assert learner.step(5.0) is None
    learner.observe(sample_feedback("c", seed=1))
    assert learner.step(5.0) is None
    assert learner.versions == (1, 0)


def test_the_clock_only_counts() -> None:
    clock = CountingClock()
    assert [clock() for _ in range(3)] == [0.0, 1.0, 2.0]


def test_outputs_raise_the_error_of_a_failed_request() -> None:
    def broken(token_ids) -> bool:
        raise KeyError

    item = Request("a", (1,), SamplingParams(max_new_tokens=3), 0, stop_checks=(broken,))
    with pytest.raises(ValueError, match="stopping criterion broken"):
        outputs(table_engine(TableLM.random()), [item])


def test_an_engine_that_does_not_end_is_given_up() -> None:
    item = Request("a", (1,), SamplingParams(max_new_tokens=30), 0)
    with pytest.raises(AssertionError, match="still has work after 5 steps"):
        run_all(table_engine(TableLM.random()), [item], max_steps=5)


def test_sample_feedback_covers_every_kind() -> None:
    rounds = [sample_feedback("a", seed, with_logits=seed % 2 == 0) for seed in range(30)]
    assert {item.draft.num_tokens for item in rounds} == {0, 1, 2, 3, 4}
    for kind in (
        lambda item: item.draft.q is None,
        lambda item: item.is_stale,
        lambda item: item.logits is None,
        lambda item: item.commit.finish_reason == "stop",
        lambda item: item.verdict.num_accepted == item.draft.num_tokens > 0,
    ):
        assert {bool(kind(item)) for item in rounds} == {True, False}
    assert torch.equal(rounds[4].draft.q, sample_feedback("a", 4).draft.q)
