"""Code of the caller that runs inside a round, and callers that drive the engine in unusual ways."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from evodraft.controllers import FixedConfig, FixedController
from evodraft.drafters.model import ModelDrafter
from evodraft.engine import Engine
from evodraft.errors import RequestError, SamplingError
from evodraft.params import SamplingParams
from evodraft.session import Session
from evodraft.target import Target
from evodraft.testing import SwappingLearner, TableDecoder, TableLM
from evodraft.types import Request
from evodraft.verifiers import CoupledVerifier

PARAMS = SamplingParams(max_new_tokens=8, temperature=1.0)


@pytest.fixture
def engine() -> Engine:
    target, draft = (TableDecoder(TableLM.random(3, 2, seed=seed), num_slots=2) for seed in (1, 2))
    return Engine(Target(target), CoupledVerifier(), ModelDrafter(draft, 3), FixedController(FixedConfig(3)))


def _finish(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def test_a_stop_check_may_cancel_its_own_request(engine: Engine) -> None:
    sessions: list[Session] = []

    def cancels(token_ids: Sequence[int]) -> bool:
        if len(token_ids) == 3:
            engine.cancel(sessions[0])
        return False

    sessions.append(engine.submit(Request("a", (0,), PARAMS, seed=1, stop_checks=(cancels,))))
    neighbour = engine.submit(Request("b", (1,), PARAMS, seed=2))
    _finish(engine)
    assert sessions[0].finish_reason == "cancelled"
    assert sessions[0].num_tokens == 2
    assert (neighbour.finish_reason, neighbour.num_tokens) == ("length", 8)
    again = engine.submit(Request("a", (0,), PARAMS, seed=1))  # the slot is free again
    _finish(engine)
    assert again.output_ids[:2] == sessions[0].output_ids


def test_a_processor_may_cancel_a_neighbour(engine: Engine) -> None:
    sessions: list[Session] = []

    def cancels(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == 3:
            engine.cancel(sessions[0])
        return scores

    sessions.append(engine.submit(Request("a", (0,), PARAMS, seed=1)))
    sessions.append(engine.submit(Request("b", (1,), PARAMS, seed=2, logits_processors=(cancels,))))
    _finish(engine)
    assert sessions[0].finish_reason == "cancelled"
    assert (sessions[1].finish_reason, sessions[1].num_tokens) == ("length", 8)


def test_two_running_requests_cannot_have_one_id(engine: Engine) -> None:
    engine.submit(Request("a", (0,), PARAMS, seed=1))
    with pytest.raises(RequestError, match="request id 'a' is running already; give every request its own id"):
        engine.submit(Request("a", (1,), PARAMS, seed=2))
    _finish(engine)
    engine.submit(Request("a", (1,), PARAMS, seed=2))


def test_a_fault_in_the_middle_of_admission_is_taken_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = (0, 1, 2, 2, 1, 0)
    expected = engine.submit(Request("a", prompt, PARAMS, seed=1))
    _finish(engine)
    monkeypatch.setattr(ModelDrafter, "admit", lambda self, chunks: 1 / 0)
    session = engine.submit(Request("b", prompt, PARAMS, seed=1))
    with pytest.raises(ZeroDivisionError):
        engine.step()
    monkeypatch.undo()
    assert engine.target.decoder.length(session.slot) == session.num_cached
    _finish(engine)
    assert session.output_ids == expected.output_ids


@pytest.mark.parametrize(("scope", "num_seen"), [("shared", 1), ("a tenant", 1), ("off", 0)])
def test_nobody_learns_from_a_request_that_is_off(scope: str, num_seen: int) -> None:
    learner = SwappingLearner(lambda feedback: None)
    seen: list[str] = []
    learner.observe = lambda feedback: seen.append(feedback.scope)
    target = TableDecoder(TableLM.random(3, 2, seed=1))
    engine = Engine(Target(target), CoupledVerifier(), learners=[learner])
    engine.submit(Request("a", (0,), SamplingParams(max_new_tokens=1), seed=1, scope=scope))
    _finish(engine)
    assert seen == [scope] * num_seen


def test_a_stop_id_outside_the_vocabulary_is_refused(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=1, stop_token_ids=[3])
    with pytest.raises(SamplingError, match=r"stop_token_ids entry 3 is outside the vocabulary 0 \.\. 2; leave it out"):
        engine.submit(Request("a", (0,), params, seed=1))


def test_many_can_be_cancelled_at_once(engine: Engine) -> None:
    sessions = [engine.submit(Request(f"r{i}", (0,), PARAMS, seed=i)) for i in range(5)]
    engine.step()
    engine.cancel(*sessions)
    assert not engine.has_work
    assert [session.finish_reason for session in sessions] == ["cancelled"] * 5
