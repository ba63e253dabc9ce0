"""Rejection: every output that is possible, and its probability as a fraction, equal those of plain decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
import torch

from evodraft.config import EngineConfig
from evodraft.controllers import FixedConfig, FixedController
from evodraft.drafters import ModelDrafter
from evodraft.params import SamplingParams
from evodraft.testing import (
    EnumeratingStream,
    ScriptedController,
    ScriptedDrafter,
    SwappingLearner,
    TableDecoder,
    TableLM,
    enumerate_outcomes,
    outputs,
    plain_law,
    product_law,
    table_engine,
)
from evodraft.types import Request
from evodraft.verifiers import AutoVerifier, RejectionVerifier

TARGET = TableLM.random(3, order=2, seed=1)
DRAFT = TableLM.random(3, order=2, seed=2)
SPARSE_TARGET = TableLM.random(3, order=2, seed=3, num_zeros=1)  # laws of two tokens, not the same two
SPARSE_DRAFT = TableLM.random(3, order=2, seed=4, num_zeros=1)
PROMPT = (1, 2, 1)

LAWS = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {"temperature": 1.0},
    "temperature 0.5": {"temperature": 0.5},
    "top_k": {"temperature": 1.0, "top_k": 2},
    "top_p": {"temperature": 1.0, "top_p": 0.7},
    "min_p": {"temperature": 1.0, "min_p": 0.3},
    "all": {"temperature": 0.5, "top_k": 2, "top_p": 0.9, "min_p": 0.1},
}


def request(
    num_tokens: int = 3, *, prompt: Sequence[int] = PROMPT, name: str = "a", processors=(), **options
) -> Request:
    more = {key: options.pop(key) for key in ("stop_token_ids", "stop_checks", "speculative") if key in options}
    params = SamplingParams(max_new_tokens=num_tokens, **{"temperature": 1.0, **options})
    # another name, another seed: the enumerating stream refuses a noise key that two requests share
    return Request(name, tuple(prompt), params, seed=ord(name), logits_processors=tuple(processors), **more)


def law_of(make_engine: Callable, *makers: Callable[[], Request]) -> dict[tuple, Fraction]:
    return enumerate_outcomes(lambda stream: outputs(make_engine(stream), [make() for make in makers]))


def assert_exact(target: TableLM, make_engine: Callable, *makers: Callable[[], Request]) -> None:
    wanted = product_law(*(plain_law(target, make) for make in makers))
    assert sum(wanted.values()) == 1
    assert law_of(make_engine, *makers) == wanted


# --- one sequence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_verifier", [RejectionVerifier, AutoVerifier])
def test_any_drafter_under_any_controller(make_drafter, make_controller, make_verifier) -> None:
    def make_engine(stream):
        return table_engine(TARGET, make_drafter(DRAFT), make_controller(), make_verifier(), stream=stream)

    assert_exact(TARGET, make_engine, request)


@pytest.mark.parametrize("options", LAWS.values(), ids=LAWS)
def test_any_law(make_drafter, options) -> None:
    def make_engine(stream):
        return table_engine(TARGET, make_drafter(DRAFT), ScriptedController([2, 1]), stream=stream)

    assert_exact(TARGET, make_engine, lambda: request(3, **options))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_any_width(make_drafter, width) -> None:
    def make_engine(stream):
        controller = FixedController(FixedConfig(num_draft_tokens=width))
        return table_engine(SPARSE_TARGET, make_drafter(SPARSE_DRAFT), controller, stream=stream)

    assert_exact(SPARSE_TARGET, make_engine, lambda: request(4))


def test_four_tokens_from_a_larger_vocabulary() -> None:
    target, draft = TableLM.random(4, order=1, seed=5, num_zeros=1), TableLM.random(4, order=1, seed=6, num_zeros=1)

    def make_engine(stream):
        return table_engine(target, ModelDrafter(TableDecoder(draft), 4), ScriptedController([2]), stream=stream)

    assert_exact(target, make_engine, lambda: request(3))


def test_a_drafter_that_knows_the_target_is_always_right() -> None:
    """And the test that finds it: every round accepts all."""
    rejected = []

    def run(stream):
        engine = table_engine(TARGET, ModelDrafter(TableDecoder(TARGET), 3), ScriptedController([2]), stream=stream)
        output = outputs(engine, [request()])
        rejected.append(engine.metrics.num_draft_tokens - engine.metrics.num_accepted_tokens)
        return output

    assert enumerate_outcomes(run) == product_law(plain_law(TARGET, request))
    assert set(rejected) == {0}


def test_a_draft_model_with_a_shorter_context() -> None:
    def make_engine(stream):
        drafter = ModelDrafter(TableDecoder(SPARSE_DRAFT, max_length=4), 3)
        return table_engine(SPARSE_TARGET, drafter, ScriptedController([3]), stream=stream)

    assert_exact(SPARSE_TARGET, make_engine, lambda: request(4))
    assert_exact(SPARSE_TARGET, make_engine, lambda: request(4, prompt=(0, 1, 2, 0, 1, 1)))


# --- processors ---------------------------------------------------------------------------------------------------


class Counting:
    """Doubles the weight of one id; which one depends on how often it was called before."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(input_ids[0].tolist()))
        bonus = torch.zeros_like(scores)
        bonus[0, (2 * len(self.seen)) % 3] = math.log(2)
        return scores + bonus


@pytest.mark.parametrize("stop_token_ids", [frozenset(), frozenset({2})], ids=["no stop id", "stop id"])
def test_a_stateful_processor_sees_the_calls_of_plain_decoding(make_drafter, stop_token_ids) -> None:
    def make() -> Request:
        return request(3, processors=[Counting()], stop_token_ids=stop_token_ids)

    def run(stream: EnumeratingStream):
        engine = table_engine(TARGET, make_drafter(DRAFT), ScriptedController([2, 3]), stream=stream)
        item = make()
        (output,) = outputs(engine, [item])
        (counting,) = item.logits_processors
        assert counting.seen == [(*PROMPT, *output[:length]) for length in range(len(output))]
        return output

    assert enumerate_outcomes(run) == plain_law(TARGET, make)


PENALTIES = {
    "repetition": {"repetition_penalty": 2.0},
    "presence": {"presence_penalty": math.log(2)},
    "frequency": {"frequency_penalty": math.log(2)},
    "bias": {"logit_bias": {0: math.log(3), 2: -math.log(2)}},
    "ban": {"logit_bias": {1: -math.inf}},
    "min_new_tokens": {"min_new_tokens": 2, "stop_token_ids": frozenset({1})},
}


@pytest.mark.parametrize("options", PENALTIES.values(), ids=PENALTIES)
def test_penalties(make_drafter, options) -> None:
    def make_engine(stream):
        return table_engine(TARGET, make_drafter(DRAFT), ScriptedController([2, 1]), stream=stream)

    assert_exact(TARGET, make_engine, lambda: request(3, **options))


# --- ends ---------------------------------------------------------------------------------------------------------


class EndsWith:
    """A stop check that follows the text one token at a time."""

    def __init__(self, *tail: int) -> None:
        self.tail = list(tail)
        self.num_calls = 0

    def __call__(self, token_ids: Sequence[int]) -> bool:
        self.num_calls += 1
        return list(token_ids[-len(self.tail) :]) == self.tail


def test_a_stop_id_inside_a_block(make_drafter, make_controller) -> None:
    def make_engine(stream):
        return table_engine(SPARSE_TARGET, make_drafter(SPARSE_DRAFT), make_controller(), stream=stream)

    assert_exact(SPARSE_TARGET, make_engine, lambda: request(4, stop_token_ids=frozenset({0})))


def test_a_stop_check_inside_a_block(make_drafter) -> None:
    def make() -> Request:
        return request(4, stop_checks=(EndsWith(1, 2),), stop_token_ids=frozenset({0}))

    def run(stream):
        engine = table_engine(SPARSE_TARGET, make_drafter(SPARSE_DRAFT), ScriptedController([3]), stream=stream)
        item = make()
        (output,) = outputs(engine, [item])
        num_asked = len(output) - (output[-1] == 0)  # a stop id ends before any check is asked
        assert item.stop_checks[0].num_calls == num_asked
        return output

    assert enumerate_outcomes(run) == plain_law(SPARSE_TARGET, make)


# --- batches ------------------------------------------------------------------------------------------------------


def test_two_sequences_of_different_kinds_are_independent(make_drafter, make_controller) -> None:
    def make_engine(stream):
        return table_engine(SPARSE_TARGET, make_drafter(SPARSE_DRAFT), make_controller(), stream=stream)

    assert_exact(
        SPARSE_TARGET,
        make_engine,
        lambda: request(2, name="a"),
        lambda: request(2, name="b", prompt=(2,), temperature=0.5, processors=[Counting()]),
    )


@pytest.mark.parametrize("prefill_budget", [1, 2, 512])
@pytest.mark.parametrize("max_batch", [1, 2])
def test_admission_changes_no_law(make_drafter, prefill_budget, max_batch) -> None:
    config = EngineConfig(max_batch=max_batch, prefill_budget=prefill_budget)

    def make_engine(stream):
        drafter = make_drafter(SPARSE_DRAFT)
        return table_engine(SPARSE_TARGET, drafter, ScriptedController([2]), stream=stream, config=config)

    assert_exact(
        SPARSE_TARGET,
        make_engine,
        lambda: request(2, name="a", prompt=(1, 0, 2, 1)),
        lambda: request(2, name="b", prompt=(2, 2), top_k=1),
        lambda: request(2, name="c", prompt=(0,), speculative=False, top_k=1),
    )


# --- a drafter that changes ---------------------------------------------------------------------------------------


def test_weights_change_between_rounds(make_controller) -> None:
    """Which weights come next depends on what was drawn, accepted and committed."""
    tables = [TableLM.random(3, order=1, seed=seed) for seed in range(3)]

    def make_engine(stream):
        decoder = TableDecoder(DRAFT)
        drafter = ModelDrafter(decoder, 3, load=lambda table: setattr(decoder, "table", table))
        learner = SwappingLearner(
            lambda feedback: tables[sum((*feedback.draft.token_ids, *feedback.commit.token_ids)) % 3]
        )
        return table_engine(TARGET, drafter, make_controller(), learners=[learner], stream=stream)

    assert_exact(TARGET, make_engine, request)


def test_weights_change_while_two_sequences_run() -> None:
    tables = [TableLM.random(3, order=1, seed=seed, num_zeros=1) for seed in range(2)]

    def make_engine(stream):
        decoder = TableDecoder(SPARSE_DRAFT)
        drafter = ModelDrafter(decoder, 3, load=lambda table: setattr(decoder, "table", table))
        learner = SwappingLearner(lambda feedback: tables[feedback.commit.token_ids[0] % 2])
        return table_engine(SPARSE_TARGET, drafter, ScriptedController([1]), learners=[learner], stream=stream)

    assert_exact(SPARSE_TARGET, make_engine, lambda: request(3, name="a"), lambda: request(2, name="b", prompt=(0, 2)))


def test_the_active_vocabulary_changes_between_rounds() -> None:
    """q is zero outside two active ids and sums to one inside; which two depends on the last round."""
    halves = {0: [0.0, 0.5, 0.5], 1: [0.75, 0.0, 0.25], 2: [0.5, 0.5, 0.0]}

    def make_engine(stream):
        drafter = ScriptedDrafter(lambda context: halves[0], vocab_size=3)
        learner = SwappingLearner(lambda feedback: lambda context: halves[feedback.commit.token_ids[-1]])
        return table_engine(TARGET, drafter, ScriptedController([2]), learners=[learner], stream=stream)

    assert_exact(TARGET, make_engine, request)
