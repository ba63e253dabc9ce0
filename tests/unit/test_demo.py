"""The demo's figures: totals by the definitions of the glossary, and where outputs part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evodraft import LLM, WeightsError
from evodraft.demo import Comparison, Prompt, Recording, _margin, compare, read_prompts, report, summarise
from evodraft.sampling import HashedStream, RequestKeys, exponential_noise
from evodraft.types import Completion, GenerationStats


def test_prompts_are_taken_per_domain(bundle: Path) -> None:
    assert [prompt.text for prompt in read_prompts(1)] == ["law 0", "code 0"]


def test_missing_prompts_are_named(bundle: Path) -> None:
    (bundle / "prompts.jsonl").unlink()
    with pytest.raises(WeightsError, match=r"prompts\.jsonl is missing; install evodraft-demo again"):
        read_prompts(1)


def test_every_prompt_is_answered_twice_with_the_same_tokens(bundle: Path) -> None:
    llm = LLM.from_pretrained("demo", controller="fixed:2")
    done = list(compare(llm, read_prompts(1), [0.0, 0.7], max_new_tokens=6, seed=3))
    assert [(c.prompt.domain, c.temperature) for c in done] == [
        ("law", 0.0),
        ("code", 0.0),
        ("law", 0.7),
        ("code", 0.7),
    ]
    for comparison in done:
        assert comparison.difference is None
        plain, fast = comparison.plain.completion.stats, comparison.speculative.completion.stats
        assert plain.num_rounds == 0 < fast.num_rounds
    document = report([summarise(done, "all", 0.0)], done, {"seed": 3})
    assert json.loads(json.dumps(document))["rows"][0]["num_identical"] == 2


def test_a_recording_tells_who_said_what_and_when(bundle: Path) -> None:
    llm = LLM.from_pretrained("demo", controller="fixed:2")
    [done] = compare(llm, [Prompt("law", "a long prompt " * 8)], [0.7], max_new_tokens=12, seed=3)
    for recording in (done.plain, done.speculative):
        stats = recording.completion.stats
        times = [span.at_s for span in recording.spans]
        assert "".join(span.text for span in recording.spans) == recording.completion.text
        assert len(recording.spans) == stats.num_tokens
        assert sum(span.is_accepted for span in recording.spans) == stats.num_accepted_tokens
        assert times == sorted(times)
        assert 0.0 < times[0] <= times[-1] == stats.decode_s
        assert len(set(times)) == stats.num_target_passes  # tokens of one round come together
    assert not any(span.is_accepted for span in done.plain.spans)


def test_a_difference_says_where_and_how_close(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM.from_pretrained("demo", controller="fixed:2")
    submit_one = LLM.submit_one

    def submit(self: LLM, **options: object) -> object:
        # the speculative side thinks of another first token, as a broken verifier might
        bias = {"logit_bias": {65: 1e4}} if options["speculative"] else {}
        return submit_one(self, **options, **bias)

    monkeypatch.setattr(LLM, "submit_one", submit)
    [done] = compare(llm, read_prompts(1)[:1], [0.0], max_new_tokens=4, seed=3)
    assert done.difference is not None
    assert done.difference.position == 0
    [best] = llm.generate(prompt_token_ids=[done.plain.completion.prompt_token_ids], max_new_tokens=1, logprobs=2)
    first, second = sorted(best.logprobs[0].top.values(), reverse=True)
    assert done.difference.margin_nats == pytest.approx(first - second)


def _recording(token_ids: tuple[int, ...], decode_s: float, rounds: int = 0, drafted: int = 0) -> Recording:
    accepted = len(token_ids) - rounds if rounds else 0
    passes = rounds or len(token_ids)
    stats = GenerationStats(
        num_prompt_tokens=1,
        num_tokens=len(token_ids),
        num_target_passes=passes,
        num_rounds=rounds,
        num_draft_tokens=drafted,
        num_accepted_tokens=accepted,
        num_round_tokens=len(token_ids) if rounds else 0,
        decode_s=decode_s,
    )
    return Recording(Completion("r", "", token_ids, "length", True, stats, 0), ())


def test_totals_by_hand() -> None:
    plain = _recording((1, 2, 3, 4, 1, 2, 3, 4), decode_s=8.0)
    fast = _recording((1, 2, 3, 4, 1, 2, 3, 4), decode_s=2.0, rounds=2, drafted=10)
    row = summarise([Comparison(Prompt("law", "?"), 0.0, plain, fast, None)], "law", 0.0)
    assert (row.plain_tokens_per_s, row.speculative_tokens_per_s, row.speed_up) == (1.0, 4.0, 4.0)
    assert (row.mean_acceptance_length, row.acceptance_rate, row.tokens_per_target_pass) == (4.0, 0.6, 4.0)
    assert row.pooled_distinct_4 == 4 / 5  # 1234 occurs twice among five 4-grams


def test_the_median_is_of_the_prompts_and_the_speed_up_of_the_totals() -> None:
    times = [(4.0, 2.0), (4.0, 4.0), (40.0, 10.0)]
    comparisons = [
        Comparison(Prompt("law", "?"), 0.0, _recording((1,) * 4, plain_s), _recording((1,) * 4, fast_s, rounds=1), None)
        for plain_s, fast_s in times
    ]
    row = summarise(comparisons, "law", 0.0)
    assert (row.median_speed_up, row.speed_up) == (2.0, 3.0)


def test_a_sampled_margin_is_that_of_the_race() -> None:
    """The best token by score is the coupled sample itself, and a tie is a tie in what decides."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    key = RequestKeys(7).coupled(12)
    log_law = dict(enumerate(logits[0].log_softmax(dim=-1).tolist()))
    law = (logits / 0.7).softmax(dim=-1)
    race = (law.log() - exponential_noise([key], 50).log())[0].topk(2)
    assert int(race.indices[0]) == int(HashedStream().draw(law, [key])[0])
    assert _margin(log_law, 0.7, key) == pytest.approx(float(race.values[0] - race.values[1]), rel=1e-4)
    best, second = logits[0].log_softmax(dim=-1).topk(2).values.tolist()
    assert _margin(log_law, 0.0, key) == pytest.approx(best - second)
