"""What every answer owes, whoever gave it: the length and stop ids that were asked for, real tokens, real seconds.

What breaks one of them is a failed answer: its tokens and seconds count nowhere. Does not know the target's law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evodraft.bench.contestants import Answer, Outcome

if TYPE_CHECKING:
    from evodraft.bench.contestants import Ask
    from evodraft.bench.measure import Turn


def held(turn: Turn, vocab_size: int) -> Turn:
    """The turn; answers that are not what was asked for have an error in place of tokens."""
    asks, outcome = turn.asks, turn.outcome
    if all(answer.error is not None for answer in outcome.answers) and len(outcome.answers) == len(asks):
        return turn
    problem = _problem_of_outcome(asks, outcome)
    if problem is not None:
        return turn._replace(outcome=Outcome(tuple(Answer((), error=problem) for _ in asks), request_s=0.0))
    answers = tuple(_held(ask, answer, vocab_size) for ask, answer in zip(asks, outcome.answers, strict=True))
    return turn._replace(outcome=replace(outcome, answers=answers))


def _held(ask: Ask, answer: Answer, vocab_size: int) -> Answer:
    problem = _problem(ask, answer.token_ids, vocab_size) if answer.error is None else None
    return answer if problem is None else Answer((), error=problem)


def _problem(ask: Ask, token_ids: Sequence[int], vocab_size: int) -> str | None:
    if not token_ids:
        return "no tokens came out"
    wrong = next((token_id for token_id in token_ids if not 0 <= token_id < vocab_size), None)
    if wrong is not None:
        return f"token id {wrong} came out, and the target's are 0 .. {vocab_size - 1}"
    if len(token_ids) > ask.max_new_tokens:
        return f"{len(token_ids)} tokens came out, and {ask.max_new_tokens} were asked for"
    stop = next((place for place, token_id in enumerate(token_ids, 1) if token_id in ask.stop_token_ids), None)
    if stop is not None and stop < len(token_ids):
        return f"{len(token_ids) - stop} tokens came out after stop token {token_ids[stop - 1]}"
    if stop is None and len(token_ids) < ask.max_new_tokens:
        return f"the answer ended after {len(token_ids)} of {ask.max_new_tokens} tokens without a stop token"
    return None


def _problem_of_outcome(asks: Sequence[Ask], outcome: Outcome) -> str | None:
    if len(outcome.answers) != len(asks):
        return f"{len(outcome.answers)} answers to {len(asks)} prompts"
    for name, seconds in (("request_s", outcome.request_s), ("decode_s", outcome.decode_s)):
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            return f"{name}={seconds:g} is no time that an answer can take"
    return None
