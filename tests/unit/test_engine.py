"""The engine: requests checked, admitted, isolated from each other, cancelled, and told about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from evodraft.config import EngineConfig
from evodraft.controllers import FixedConfig, FixedController
from evodraft.drafters import ModelDrafter
from evodraft.engine import Engine
from evodraft.errors import NumericsError, PromptError, SamplingError, UserCodeError
from evodraft.params import SamplingParams
from evodraft.target import Target
from evodraft.testing import (
    ScriptedController,
    ScriptedDrafter,
    SwappingLearner,
    TableDecoder,
    TableLM,
    coupled_tokens,
    outputs,
    run_all,
    table_engine,
)
from evodraft.types import Request
from evodraft.verifiers import CoupledVerifier, RejectionVerifier

TABLE = TableLM.random(4, order=2, seed=1)
DRAFT = TableLM.random(4, order=2, seed=2)
VERIFIERS = [CoupledVerifier, RejectionVerifier]


def request(name: str = "a", prompt: Sequence[int] = (1, 2, 3), num_tokens: int = 12, **more) -> Request:
    params = SamplingParams(max_new_tokens=num_tokens, **{"temperature": 1.0, **more.pop("options", {})})
    return Request(name, tuple(prompt), params, seed=sum(name.encode()), is_seed_chosen=True, **more)


def engine_of(verifier=CoupledVerifier, width: int = 3, decoder: TableDecoder | None = None, **config) -> Engine:
    limits = EngineConfig(**config)
    target = decoder or TableDecoder(TABLE, limits.max_batch)
    drafter = ModelDrafter(TableDecoder(DRAFT, limits.max_batch), 4)
    return Engine(
        Target(target), verifier(), drafter, FixedController(FixedConfig(num_draft_tokens=width)), config=limits
    )


def alone(item: Request, verifier=CoupledVerifier) -> tuple[int, ...]:
    (tokens,) = outputs(engine_of(verifier), [item])
    return tokens


# --- requests that are refused ------------------------------------------------------------------------------------

REFUSED = [
    (request(prompt=()), PromptError, r"the prompt has 0 tokens and at least 1 is needed; start it with"),
    (request(prompt=(1, 4)), PromptError, r"token id 4 is outside the vocabulary 0 \.\. 3; was the prompt encoded"),
    (request(prompt=(-1,)), PromptError, r"token id -1 is outside the vocabulary 0 \.\. 3"),
    (request(prompt=(1,) * 64), PromptError, r"the prompt has 64 tokens.* limited to 64; shorten the prompt or raise"),
    (request(num_tokens=62), SamplingError, r"max_new_tokens=62 after a prompt of 3.*limit of 64.*<= 61 or raise"),
    (
        request(options={"logit_bias": {4: 1.0}}),
        SamplingError,
        r"logit_bias key 4 is outside the vocabulary 0 \.\. 3",
    ),
]


@pytest.mark.parametrize(("bad", "kind", "message"), REFUSED)
def test_a_bad_request_is_refused_and_changes_nothing(bad, kind, message) -> None:
    engine = engine_of()
    good = engine.submit(request("good"))
    engine.step()
    with pytest.raises(kind, match=message):
        engine.submit(bad)
    while engine.has_work:
        engine.step()
    assert good.output_ids == alone(request("good"))


def test_the_longest_request_that_fits_runs_to_its_end() -> None:
    (tokens,) = outputs(engine_of(), [request(num_tokens=61)])
    assert len(tokens) == 61


# --- one request's fault ends that request alone ------------------------------------------------------------------


def raising(input_ids, scores):
    if input_ids.shape[1] >= 6:
        raise ValueError("lost")
    return scores


def banning(input_ids, scores):
    return scores if input_ids.shape[1] < 6 else torch.full_like(scores, -math.inf)


def broken_check(token_ids) -> bool:
    if len(token_ids) >= 6:
        raise LookupError("no such text")
    return False


class Poisoned(TableDecoder):
    """NaN for one slot once it holds six tokens."""

    def forward(self, token_ids, widths, slots, **options):
        output = super().forward(token_ids, widths, slots, **options)
        for row, slot in enumerate(slots):
            if slot == 1 and self.length(slot) >= 6 and output.logits is not None:
                output.logits[row] = math.nan
        return output


FAULTS = {
    "processor": ({"logits_processors": (raising,)}, UserCodeError, r"raising raised ValueError\('lost'\); fix it"),
    "banned all": ({"logits_processors": (banning,)}, UserCodeError, r"no usable token at position 6"),
    "stop check": ({"stop_checks": (broken_check,)}, UserCodeError, r"broken_check raised LookupError"),
    "NaN": ({}, NumericsError, r"NaN.*of request bad; check its weights, or load it with dtype='float32'"),
}


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize(("more", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_ends_its_own_request_only(more, kind, message, verifier) -> None:
    decoder = Poisoned(TABLE) if kind is NumericsError else None
    engine = engine_of(verifier, decoder=decoder)
    items = [request("first"), request("bad", **more), request("last", (2,))]
    first, bad, last = run_all(engine, items)
    assert bad.finish_reason == "error"
    with pytest.raises(kind, match=message):
        bad.complete(exact=True).raise_for_error()
    assert first.output_ids == alone(request("first"), verifier)
    assert last.output_ids == alone(request("last", (2,)), verifier)
    assert engine.metrics.num_failed_requests == 1


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_tokens_before_a_fault_are_those_of_a_request_without_it(verifier) -> None:
    (session,) = run_all(engine_of(verifier), [request("bad", stop_checks=(broken_check,))])
    assert session.output_ids == alone(request("bad"), verifier)[:3]


def test_a_drafter_without_sense_only_costs_its_drafts() -> None:
    drafter = ScriptedDrafter(lambda context: [math.nan] * 4, vocab_size=4)
    engine = table_engine(TABLE, drafter, ScriptedController([3]), CoupledVerifier())
    assert outputs(engine, [request()]) == (alone(request()),)
    assert engine.metrics.num_draft_tokens == 0


# --- admission ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_more_requests_than_slots(verifier) -> None:
    engine = engine_of(verifier, max_batch=2)
    items = [request(f"r{number}", (number % 4,) * (1 + number), 3 + number) for number in range(7)]
    most = 0
    sessions = [engine.submit(item) for item in items]
    while engine.has_work:
        engine.step()
        most = max(most, sum(session.num_tokens > 0 and not session.is_finished for session in sessions))
    assert most == 2
    assert [session.output_ids for session in sessions] == [alone(item, verifier) for item in items]


def test_a_decoder_with_fewer_slots_than_max_batch_is_the_limit() -> None:
    engine = engine_of(decoder=TableDecoder(TABLE, num_slots=1))
    items = [request("a"), request("b")]
    assert outputs(engine, items) == tuple(alone(item) for item in items)


def test_a_request_that_comes_later_joins_and_leaves() -> None:
    engine = engine_of()
    first = engine.submit(request("first", num_tokens=30))
    engine.step()
    second = engine.submit(request("second", (2, 2), 4))
    while engine.has_work:
        engine.step()
    assert first.output_ids == alone(request("first", num_tokens=30))
    assert second.output_ids == alone(request("second", (2, 2), 4))


@pytest.mark.parametrize("prefill_budget", [1, 4, 7])
def test_running_streams_do_not_stall_while_a_long_prompt_is_admitted(prefill_budget) -> None:
    engine = engine_of(prefill_budget=prefill_budget)
    long_prompt = tuple(number % 4 for number in range(40))
    running = engine.submit(request("running", (1,), 60))
    engine.step()
    late = engine.submit(request("late", long_prompt, 5))
    num_steps = 0
    while late.num_to_prefill > 0:
        before = (running.num_tokens, late.num_prefilled)
        engine.step()
        num_steps += 1
        assert running.is_finished or running.num_tokens > before[0]
        assert 0 < late.num_prefilled - before[1] <= prefill_budget
    assert num_steps == math.ceil(39 / prefill_budget)
    while engine.has_work:
        engine.step()
    assert late.output_ids == alone(request("late", long_prompt, 5))


def test_the_prefill_budget_is_shared_first_come_first_served() -> None:
    engine = engine_of(prefill_budget=5)
    first, second = (engine.submit(request(name, (1, 2, 3, 0, 1), 3)) for name in ("a", "b"))
    engine.step()
    assert (first.num_prefilled, second.num_prefilled) == (4, 1)
    assert (first.num_tokens > 0, second.num_tokens) == (True, 0)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_slots_are_reused_cleanly(verifier) -> None:
    engine = engine_of(verifier, max_batch=1)
    for number in range(4):
        item = request(f"r{number}", (3, number % 4, 1), 5)
        assert outputs(engine, [item]) == (alone(item, verifier),)
        assert engine.target.decoder.length(0) == 0
        assert engine.drafter.decoder.length(0) == 0


def test_low_slots_are_given_first() -> None:
    engine = engine_of()
    sessions = [engine.submit(request(f"r{number}", (1,), 1 + 3 * number)) for number in range(3)]
    engine.step()
    assert [session.slot for session in sessions] == [0, 1, 2]
    while not sessions[0].is_finished:
        engine.step()
    late = engine.submit(request("late", (1,), 2))
    engine.step()
    assert late.slot == 0


@pytest.mark.parametrize("num_prompt", [2, 6, 9])
def test_a_draft_model_with_a_shorter_context_drafts_as_long_as_it_can(num_prompt) -> None:
    drafter = ModelDrafter(TableDecoder(TABLE, max_length=8), 4)
    engine = table_engine(TABLE, drafter, ScriptedController([3]), CoupledVerifier())
    item = request(prompt=(1,) * num_prompt)
    (session,) = run_all(engine, [item])
    assert session.output_ids == alone(item)
    assert (session.stats().num_draft_tokens > 0) is (num_prompt < 8)
    assert drafter.decoder.length(0) == 0


# --- cancellation -------------------------------------------------------------------------------------------------


def test_cancelling_ends_a_running_session_and_keeps_what_it_said() -> None:
    engine = engine_of()
    one, other = engine.submit(request("one")), engine.submit(request("other"))
    engine.step()
    engine.step()
    said = one.output_ids
    engine.cancel(one)
    assert engine.target.decoder.length(one.slot) == 0
    while engine.has_work:
        engine.step()
    assert (one.finish_reason, one.output_ids) == ("cancelled", said)
    assert said == alone(request("one"))[: len(said)]
    assert other.output_ids == alone(request("other"))


def test_cancelling_a_waiting_session_takes_it_out_of_the_line() -> None:
    engine = engine_of(max_batch=1)
    sessions = [engine.submit(request(f"r{number}")) for number in range(3)]
    engine.step()
    engine.cancel(sessions[1])
    while engine.has_work:
        engine.step()
    assert [session.finish_reason for session in sessions] == ["length", "cancelled", "length"]
    assert sessions[1].output_ids == ()


def test_cancelling_in_the_middle_of_a_prompt() -> None:
    engine = engine_of(prefill_budget=1)
    session = engine.submit(request(prompt=(1, 2, 3, 0)))
    engine.step()
    engine.cancel(session)
    assert not engine.has_work
    assert outputs(engine, [request("b")]) == (alone(request("b")),)


def test_cancelling_a_finished_session_changes_nothing() -> None:
    engine = engine_of()
    (session,) = run_all(engine, [request()])
    engine.cancel(session)
    assert session.finish_reason == "length"


# --- plain decoding, width and what is told -----------------------------------------------------------------------


def test_without_a_drafter_every_pass_is_plain() -> None:
    engine = table_engine(TABLE, verifier=CoupledVerifier())
    (session,) = run_all(engine, [request()])
    stats = session.stats()
    assert session.output_ids == coupled_tokens(TABLE, request)
    assert (stats.num_target_passes, stats.num_rounds, stats.mean_acceptance_length) == (12, 0, 1.0)


def test_a_request_may_decline_to_speculate() -> None:
    drafter = ScriptedDrafter(lambda context: 0, vocab_size=4, max_length=None)
    engine = table_engine(TABLE, drafter, ScriptedController([3]), CoupledVerifier())
    (session,) = run_all(engine, [request(speculative=False)])
    assert session.stats().num_rounds == 0
    assert drafter.contexts == []
    assert drafter.chunks == []


def test_a_controller_without_a_drafter_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="a drafter needs a controller"):
        table_engine(TABLE, controller=ScriptedController([1]))


def test_no_more_is_drafted_than_could_be_of_use() -> None:
    drafter = ModelDrafter(TableDecoder(TABLE), 4)  # always right
    engine = table_engine(TABLE, drafter, ScriptedController([9]), CoupledVerifier())
    (session,) = run_all(engine, [request(num_tokens=5)])
    stats = session.stats()
    assert (stats.num_draft_tokens, stats.num_accepted_tokens, stats.num_target_passes) == (4, 4, 1)
    (session,) = run_all(engine, [request(num_tokens=1)])
    assert session.stats().num_draft_tokens == 0


def test_controllers_hear_of_every_request() -> None:
    controller = ScriptedController([2, 0])
    engine = table_engine(TABLE, ModelDrafter(TableDecoder(DRAFT), 4), controller, CoupledVerifier())
    sessions = run_all(engine, [request("a", num_tokens=4), request("b", num_tokens=7)])
    for session, name in zip(sessions, "ab", strict=True):
        heard = [event for event, request_id in controller.log if request_id == name]
        assert heard == ["start", *["observe"] * session.stats().num_target_passes, "finish"]


def test_learners_hear_of_every_round_and_get_what_they_declared() -> None:
    for target_logits in (False, True):
        learner = SwappingLearner(lambda feedback: None, target_logits=target_logits)
        drafter = ModelDrafter(TableDecoder(DRAFT), 4)
        config = EngineConfig(learner_budget_ms=7.0)
        engine = table_engine(TABLE, drafter, ScriptedController([2, 0]), CoupledVerifier(), [learner], config=config)
        sessions = run_all(engine, [request("a"), request("b", scope="tenant")])
        told = {name: [item for item in learner.feedbacks if item.request_id == name] for name in "ab"}
        for session, name in zip(sessions, "ab", strict=True):
            assert tuple(i for item in told[name] for i in item.commit.token_ids) == session.output_ids
            assert told[name][-1].commit.finish_reason == "length"
        assert {item.scope for item in told["b"]} == {"tenant"}
        assert any(item.draft.num_tokens == 0 for item in learner.feedbacks)
        assert {item.logits is not None for item in learner.feedbacks} == {target_logits}
        assert set(learner.budgets_ms) == {7.0}
        assert learner.feedbacks[0].timings.batch_size == 2
        assert learner.feedbacks[0].timings.draft > 0


def test_updates_reach_the_drafter_between_rounds() -> None:
    scripts = {version: (lambda context, version=version: version % 4) for version in range(40)}
    drafter = ScriptedDrafter(scripts[0], vocab_size=4)
    learner = SwappingLearner(lambda feedback: scripts[learner.versions.weights + 1])
    engine = table_engine(TABLE, drafter, ScriptedController([2]), CoupledVerifier(), [learner])
    run_all(engine, [request("a"), request("b")])
    assert drafter.versions == learner.versions
    for item in learner.feedbacks:
        assert set(item.draft.token_ids) <= {item.draft.versions.weights % 4}
        assert not item.is_stale


def test_a_learner_without_a_drafter_only_watches() -> None:
    learner = SwappingLearner(lambda feedback: "unused")
    engine = table_engine(TABLE, verifier=CoupledVerifier(), learners=[learner])
    assert outputs(engine, [request()]) == (coupled_tokens(TABLE, request),)
    assert len(learner.feedbacks) == 12


def test_drafters_hear_what_was_confirmed() -> None:
    table = TABLE
    drafter = ScriptedDrafter(lambda context: int(table.law(context).argmax()), vocab_size=4)
    engine = table_engine(table, drafter, ScriptedController([2]), CoupledVerifier())
    (session,) = run_all(engine, [request(prompt=(1, 2, 3))])
    assert [(chunk.slot, chunk.token_ids) for chunk in drafter.chunks] == [(0, (1, 2))]
    confirmed = [row.num_confirmed for row in drafter.commits]
    length = 3
    for commit, num_confirmed in zip(session.commits, confirmed, strict=False):
        assert num_confirmed == length + commit.num_accepted
        length += len(commit.token_ids)
    assert drafter.released == [0]


def test_metrics_sum_up_the_sessions() -> None:
    engine = engine_of()
    sessions = run_all(engine, [request("a"), request("b", (2,), 5)])
    stats = [session.stats() for session in sessions]
    assert engine.metrics.num_tokens == sum(item.num_tokens for item in stats) == 17
    assert engine.metrics.num_drafts == sum(item.num_rounds for item in stats)
    assert engine.metrics.num_draft_tokens == sum(item.num_draft_tokens for item in stats)
    assert engine.metrics.num_accepted_tokens == sum(item.num_accepted_tokens for item in stats)
    assert engine.metrics.num_target_passes == sum(item.num_target_passes for item in stats)


def test_times_come_from_the_injected_clock() -> None:
    (session,) = run_all(engine_of_clocked(), [request()])
    stats = session.stats()
    assert stats.prefill_s == 1.0  # two readings, one apart
    assert stats.decode_s > stats.num_target_passes


def engine_of_clocked() -> Engine:
    return table_engine(TABLE, ModelDrafter(TableDecoder(DRAFT), 4), ScriptedController([2]), CoupledVerifier())
