"""Sessions: what is committed, where it is cut, and that counters are cut with it."""

from __future__ import annotations

import math

import pytest
import torch

from evodraft.errors import PromptError, UserCodeError
from evodraft.params import SamplingParams
from evodraft.session import Session
from evodraft.types import Draft, Request, Verdict

LOGITS = torch.log_softmax(torch.arange(24.0).reshape(4, 6) % 7, dim=-1)


def session(stop=(), checks=(), **options) -> Session:
    params = SamplingParams(**{"max_new_tokens": 10, **options})
    request = Request("a", (1, 2, 3), params, 7, stop_token_ids=frozenset(stop), stop_checks=tuple(checks))
    started = Session(request)
    started.begin(100.0)
    return started


def commit(to: Session, tokens, num_accepted: int, num_drafted: int = 3, now_s: float = 101.0):
    draft = Draft.chain([*tokens[:num_accepted], *[0] * (num_drafted - num_accepted)])
    return to.commit(draft, Verdict(tuple(range(num_accepted)), tuple(tokens)), LOGITS, now_s)


def test_a_new_session_has_its_prompt_to_prefill_but_one() -> None:
    new = session()
    assert (new.num_prompt_tokens, new.num_tokens, new.num_remaining, new.num_to_prefill) == (3, 0, 10, 2)
    assert not new.is_finished
    assert new.output_ids == ()
    assert (new.keys.seed, new.keys.sample_index) == (7, 0)


def test_a_verdict_is_committed_whole_if_nothing_stops_it() -> None:
    running = session()
    result = commit(running, (4, 5, 4), num_accepted=2)
    assert (result.token_ids, result.num_accepted, result.finish_reason) == ((4, 5, 4), 2, None)
    assert running.token_ids == [1, 2, 3, 4, 5, 4]
    assert running.output_ids == (4, 5, 4)
    assert running.commits == [result]


@pytest.mark.parametrize(
    ("tokens", "num_accepted", "kept"),
    [((5, 0, 4), 2, (5,)), ((0, 5, 4), 2, (0, 5)), ((0, 4, 5), 2, (0, 4, 5))],
)
def test_a_stop_id_cuts_everything_after_it(tokens, num_accepted, kept) -> None:
    running = session(stop=[5], logprobs=1)
    result = commit(running, tokens, num_accepted)
    assert (result.token_ids, result.num_accepted, result.finish_reason) == (kept, min(2, len(kept)), "stop")
    assert running.output_ids == kept[:-1]
    stats = running.stats()
    assert (stats.num_tokens, stats.num_round_tokens) == (len(kept), len(kept))
    assert stats.num_accepted_tokens == min(2, len(kept))
    assert stats.accepted_per_position == (1,) * min(2, len(kept))
    assert len(running.complete(exact=True).logprobs) == len(kept) - 1


def test_a_stop_id_before_min_new_tokens_is_a_token_like_any_other() -> None:
    running = session(stop=[5], min_new_tokens=2)
    assert commit(running, (5, 5, 5), 2).token_ids == (5, 5, 5)
    assert running.finish_reason == "stop"
    assert running.output_ids == (5, 5)


@pytest.mark.parametrize(("num_tokens", "stops"), [(1, False), (2, False), (3, True)])
def test_stops_at(num_tokens, stops) -> None:
    running = session(stop=[5], min_new_tokens=2)
    assert running.stops_at(5, num_tokens) is stops
    assert not running.stops_at(4, num_tokens)


def test_the_length_limit_cuts() -> None:
    running = session(max_new_tokens=2)
    result = commit(running, (4, 4, 4), 2)
    assert (result.token_ids, result.finish_reason) == ((4, 4), "length")
    assert running.output_ids == (4, 4)


def test_a_stop_id_as_the_last_possible_token_is_a_stop() -> None:
    running = session(stop=[5], max_new_tokens=2)
    assert commit(running, (4, 5), 1).finish_reason == "stop"


def test_checks_see_every_token_once_and_cut() -> None:
    seen = []

    def first(token_ids) -> bool:
        seen.append(list(token_ids))
        return False

    running = session(checks=[first, lambda token_ids: token_ids[-2:] == [4, 5]])
    result = commit(running, (4, 5, 0), 2)
    assert (result.token_ids, result.finish_reason) == ((4, 5), "stop")
    assert seen == [[1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert running.output_ids == (4, 5)


def test_every_check_is_asked_even_after_a_hit_and_before_the_minimum() -> None:
    counts = [0, 0]

    def counting(index: int):
        def check(token_ids) -> bool:
            counts[index] += 1
            return True

        return check

    running = session(checks=[counting(0), counting(1)], min_new_tokens=2)
    assert commit(running, (4, 4, 4), 2).token_ids == (4, 4)
    assert counts == [2, 2]


def test_a_failing_check_is_the_callers_fault_and_keeps_what_came_before() -> None:
    def broken(token_ids) -> bool:
        return token_ids[-1] == 5 and 1 // 0 > 0

    running = session(checks=[broken])
    with pytest.raises(UserCodeError, match=r"stopping criterion broken raised ZeroDivisionError.*; fix it or leave"):
        commit(running, (4, 5, 0), 2)
    assert running.token_ids == [1, 2, 3, 4, 5]
    assert running.stats().num_tokens == 2


def test_our_own_errors_pass_through_a_check() -> None:
    def refusing(token_ids) -> bool:
        raise PromptError("by a check of ours")

    with pytest.raises(PromptError, match="by a check of ours"):
        commit(session(checks=[refusing]), (4,), 0)


def test_counters_over_several_rounds() -> None:
    running = session()
    commit(running, (4, 0, 4), 2, num_drafted=3)
    commit(running, (4,), 0, num_drafted=0)
    running.commit(Draft.chain([0, 0]), Verdict((), (4,), num_fallbacks=1), LOGITS, 104.5)
    commit(running, (0, 4), 1, num_drafted=2, now_s=104.5)
    stats = running.stats()
    assert (stats.num_target_passes, stats.num_rounds) == (4, 3)
    assert (stats.num_draft_tokens, stats.num_accepted_tokens, stats.num_round_tokens) == (7, 3, 6)
    assert stats.accepted_per_position == (2, 1)
    assert stats.num_fallbacks == 1
    assert stats.decode_s == 4.5
    assert stats.num_prompt_tokens == 3


def test_decoding_starts_once() -> None:
    running = session()
    running.begin(200.0)
    commit(running, (4,), 0, now_s=103.0)
    assert running.stats().decode_s == 3.0


def test_logprobs_are_of_the_rows_that_said_the_tokens() -> None:
    running = session(logprobs=2)
    draft = Draft((0, 3, 4), (-1, -1, 1), None)  # a tree: node 1, then node 2 stood
    running.commit(draft, Verdict((1, 2), (3, 4, 5)), LOGITS, 101.0)
    noted = running.complete(exact=True).logprobs
    for row, token_id, entry in zip((0, 2, 3), (3, 4, 5), noted, strict=True):
        assert entry.token_id == token_id
        assert entry.logprob == pytest.approx(LOGITS[row, token_id].item(), abs=1e-6)
        best = LOGITS[row].topk(2)
        assert list(entry.top) == best.indices.tolist()
        assert list(entry.top.values()) == pytest.approx(best.values.tolist(), abs=1e-6)


def test_logprobs_without_rivals_or_more_rivals_than_ids() -> None:
    assert session(logprobs=0).complete(exact=True).logprobs == ()
    running = session(logprobs=100)
    commit(running, (4,), 0)
    assert len(running.logprobs[0].top) == 6
    assert math.fsum(math.exp(value) for value in running.logprobs[0].top.values()) == pytest.approx(1.0)
    assert session().complete(exact=True).logprobs is None


def test_cancelled_keeps_what_is_committed() -> None:
    running = session()
    commit(running, (4, 5), 1)
    running.cancel()
    done = running.complete(exact=True, text="x")
    assert (done.finish_reason, done.token_ids, done.text, done.error) == ("cancelled", (4, 5), "x", None)


def test_failed_carries_its_error() -> None:
    running = session()
    error = UserCodeError("broken")
    running.fail(error)
    done = running.complete(exact=False)
    assert (done.finish_reason, done.error, done.exact) == ("error", error, False)


def test_a_completion_tells_what_was_asked() -> None:
    running = session()
    commit(running, (4,), 0)
    done = running.complete(exact=True)
    assert (done.request_id, done.seed, done.prompt_token_ids) == ("a", 7, (1, 2, 3))
    assert done.stats == running.stats()
