"""Counters of an engine."""

from __future__ import annotations

from evodraft.metrics import Metrics
from evodraft.types import Commit, Draft, Feedback, Timings, Verdict


def feedback(num_drafted: int, num_accepted: int, num_committed: int, num_fallbacks: int = 0) -> Feedback:
    return Feedback(
        request_id="a",
        scope="off",
        draft=Draft.chain([0] * num_drafted),
        verdict=Verdict(tuple(range(num_accepted)), (0,) * (num_accepted + 1), num_fallbacks),
        commit=Commit((0,) * num_committed, min(num_accepted, num_committed)),
        is_stale=False,
        timings=Timings(),
    )


def test_counts_are_of_what_was_committed() -> None:
    metrics = Metrics()
    for round_ in (feedback(4, 2, 3), feedback(0, 0, 1), feedback(4, 4, 1, 2), feedback(2, 0, 1)):
        metrics.observe(round_)
    metrics.num_failed_requests += 1
    assert metrics.counters() == {
        "evodraft:spec_decode_num_drafts": 3,
        "evodraft:spec_decode_num_draft_tokens": 10,
        "evodraft:spec_decode_num_accepted_tokens": 3,
        'evodraft:spec_decode_num_accepted_tokens_per_pos{position="0"}': 2,
        'evodraft:spec_decode_num_accepted_tokens_per_pos{position="1"}': 1,
        "evodraft:num_target_passes": 4,
        "evodraft:num_generation_tokens": 6,
        "evodraft:num_residual_fallbacks": 2,
        "evodraft:num_failed_requests": 1,
    }


def test_a_new_engine_has_counted_nothing() -> None:
    assert set(Metrics().counters().values()) == {0}
