"""Which answers are failures, whatever their law."""

from __future__ import annotations

import math

import pytest

from evodraft.bench.contestants import Answer, Ask, Outcome
from evodraft.bench.measure import Batch, Turn
from evodraft.bench.obligations import held

ASK = Ask((1, 2), max_new_tokens=4, stop_token_ids=(0,))


def turn(outcome: Outcome) -> Turn:
    return Turn("c", Batch(0, "law", (ASK,)), 0, (ASK,), outcome)


def problem(*token_ids: int) -> str | None:
    return held(turn(Outcome((Answer(token_ids),), 1.0)), vocab_size=10).error


@pytest.mark.parametrize("token_ids", [(1, 2, 3, 4), (1, 0), (0,), (1, 2, 3, 0)])
def test_what_was_asked_for_passes_as_it_is(token_ids: tuple[int, ...]) -> None:
    given = turn(Outcome((Answer(token_ids),), 1.0))
    assert held(given, vocab_size=10) == given


def test_length_stops_and_vocabulary_are_owed() -> None:
    assert problem() == "no tokens came out"
    assert problem(1, 2, 3, 4, 5) == "5 tokens came out, and 4 were asked for"
    assert problem(1, 0, 3) == "1 tokens came out after stop token 0"
    assert problem(1, 2) == "the answer ended after 2 of 4 tokens without a stop token"
    assert problem(1, 10, 2, 3) == "token id 10 came out, and the target's are 0 .. 9"
    assert problem(1, -1, 2, 3) == "token id -1 came out, and the target's are 0 .. 9"


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_times_that_cannot_be_are_failures(seconds: float) -> None:
    good = (Answer((1, 0)),)
    for outcome in (Outcome(good, seconds), Outcome(good, 1.0, seconds)):
        found = held(turn(outcome), vocab_size=10)
        assert "is no time that an answer can take" in str(found.error)
        assert found.num_tokens == 0


def test_every_prompt_has_one_answer_and_failures_stay_what_they_are() -> None:
    assert held(turn(Outcome((), 1.0)), vocab_size=10).error == "0 answers to 1 prompts"
    failed = turn(Outcome((Answer((), error="out of luck"),), 0.0))
    assert held(failed, vocab_size=10) == failed
