"""Jobs: pieces of a stream, completions, and the callers' criteria as stop checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import MaxLengthCriteria, StoppingCriteriaList

from evodraft.errors import PromptError, SamplingError
from evodraft.jobs import Job, callables, stop_check
from evodraft.params import SamplingParams
from evodraft.session import Session
from evodraft.testing.tokenizers import byte_tokenizer
from evodraft.text import TextBuffer
from evodraft.types import Draft, Request, Verdict

PROMPT = (65, 66)
LOGITS = torch.zeros(4, 257)


def running(stop: tuple[str, ...] = (), *, stop_token_ids: Sequence[int] = (), has_text: bool = True) -> Job:
    buffer = TextBuffer(byte_tokenizer(), PROMPT, stop) if has_text else None
    request = Request(
        "r",
        PROMPT,
        SamplingParams(max_new_tokens=20),
        seed=1,
        stop_token_ids=frozenset(stop_token_ids),
        stop_checks=() if buffer is None else (buffer,),
    )
    return Job(request, buffer, Session(request))


def commit(job: Job, text: str, num_accepted: int = 0) -> None:
    """One round that brings `text`, its first `num_accepted` tokens from the draft."""
    assert job.session is not None
    token_ids = tuple(byte_tokenizer()(text)["input_ids"])
    verdict = Verdict(tuple(range(num_accepted)), token_ids)
    job.session.commit(Draft.chain(token_ids[:num_accepted]), verdict, LOGITS, now_s=1.0)


def test_a_piece_is_what_came_since_the_last() -> None:
    job = running()
    assert job.next_piece() is None
    commit(job, "ab", num_accepted=1)
    piece = job.next_piece()
    assert piece is not None
    assert (piece.text, len(piece.token_ids), piece.num_accepted, piece.completion) == ("ab", 2, 1, None)
    assert job.next_piece() is None
    commit(job, "c")
    commit(job, "de", num_accepted=2)
    piece = job.next_piece()
    assert piece is not None
    assert (piece.text, len(piece.token_ids), piece.num_accepted) == ("cde", 3, 2)


def test_a_round_without_visible_text_is_a_piece_too() -> None:
    job = running(stop=("bad",))
    commit(job, "b")
    piece = job.next_piece()
    assert piece is not None
    assert (piece.text, len(piece.token_ids)) == ("", 1)


def test_the_last_piece_holds_the_rest_and_the_completion() -> None:
    job = running(stop=("bad",))
    commit(job, "xb")
    assert job.next_piece() is not None
    commit(job, "a")
    assert job.session is not None
    job.session.cancel()
    assert job.is_finished
    completion = job.completion(exact=True)
    last = job.last_piece(completion)
    assert (last.text, len(last.token_ids), last.completion) == ("ba", 1, completion)
    assert (completion.text, completion.finish_reason, completion.exact) == ("xba", "cancelled", True)


def test_an_accepted_stop_token_is_not_among_the_accepted_of_a_piece() -> None:
    [stop_id] = byte_tokenizer()(".")["input_ids"]
    job = running(stop_token_ids=[stop_id])
    commit(job, "ab.", num_accepted=3)
    assert job.is_finished
    last = job.last_piece(job.completion(exact=True))
    assert (last.text, len(last.token_ids), last.num_accepted) == ("ab", 2, 2)


def test_without_a_tokenizer_there_are_only_ids() -> None:
    job = running(has_text=False)
    commit(job, "ab")
    piece = job.next_piece()
    assert piece is not None
    assert (piece.text, len(piece.token_ids)) == ("", 2)
    completion = job.completion(exact=False)
    assert (completion.text, completion.exact) == ("", False)
    assert job.last_piece(completion).token_ids == ()


def test_a_refused_job_is_finished() -> None:
    request = Request("r", (), SamplingParams(), seed=3)
    job = Job(request, None, error=PromptError("empty"))
    assert job.is_finished
    completion = job.completion(exact=True)
    assert (completion.error, completion.finish_reason, completion.seed) == (job.error, "error", 3)


# --- criteria -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "is_stopped"),
    [(True, True), (False, False), (torch.tensor([True]), True), (torch.tensor([False]), False), (1, True)],
)
def test_answers_of_criteria(answer: Any, is_stopped: bool) -> None:
    assert stop_check(lambda input_ids, scores: answer)([1, 2]) is is_stopped


def test_criteria_are_called_as_transformers_calls_them() -> None:
    seen = []

    def criterion(input_ids: torch.Tensor, scores: None) -> bool:
        seen.append((input_ids.tolist(), input_ids.dtype, scores))
        return False

    check = stop_check(criterion)
    check([1, 2, 3])
    assert seen == [([[1, 2, 3]], torch.int64, None)]
    assert check.__name__ == "criterion", "so that an error names it"


def test_criteria_of_transformers() -> None:
    check = stop_check(MaxLengthCriteria(max_length=3))
    assert [check([1] * length) for length in (2, 3, 4)] == [False, True, True]
    assert check.__name__ == "MaxLengthCriteria"
    assert stop_check(StoppingCriteriaList([MaxLengthCriteria(max_length=2)]))([1, 2]) is True


def test_processors_and_criteria_may_be_none_one_or_many() -> None:
    assert callables("logits_processor", None) == ()
    assert callables("logits_processor", len) == (len,)
    assert callables("logits_processor", [len, abs]) == (len, abs)
    with pytest.raises(SamplingError, match="stopping_criteria holds 3, which cannot be called"):
        callables("stopping_criteria", [len, 3])
