"""Forced acceptance: the schedule decides, through the production engine, whatever the models say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest
import torch

from evodraft import LLM
from evodraft.bench.synthetic import ForcedAcceptance, mean_acceptance_length
from evodraft.errors import BenchError, UnknownOptionError
from evodraft.learners.base import LearnerNeeds
from evodraft.params import SamplingParams
from evodraft.sampling import HashedStream, RequestKeys
from evodraft.testing.pairs import tiny_pair
from evodraft.types import Draft, Feedback, Request, Scores
from evodraft.verifiers import VERIFIERS
from evodraft.verifiers.base import Case

_VOCAB_SIZE = 8


class Rounds:
    """Notes how long each request's drafts were and how much of them stood."""

    needs = LearnerNeeds()

    def __init__(self) -> None:
        self.by_request: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def observe(self, feedback: Feedback) -> None:
        self.by_request[feedback.request_id].append((feedback.draft.num_tokens, feedback.commit.num_accepted))

    def step(self, budget_ms: float) -> None:
        return None


class Uniform:
    """Laws that prefer nothing."""

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        return torch.full((_VOCAB_SIZE,), 1 / _VOCAB_SIZE)

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return None


def _decode(verifier: ForcedAcceptance, seeds: Sequence[int], temperature: float, num_tokens: int = 60) -> Rounds:
    """One prompt per seed, all in one batch."""
    pair, rounds = tiny_pair("llama"), Rounds()
    llm = LLM.from_pretrained(
        (pair.target, None),
        drafter={"name": "model", "model": pair.draft},
        controller="fixed:4",
        verifier=verifier,
        max_batch=len(seeds),
    )
    llm.engine.learners = (rounds,)
    jobs = [
        llm.submit_one(prompt_token_ids=[5, seed + 1, 9], max_new_tokens=num_tokens, temperature=temperature, seed=seed)
        for seed in seeds
    ]
    while llm.engine.has_work:
        llm.engine.step()
    for out in llm.collect(jobs):
        assert out.raise_for_error().stats.num_tokens == num_tokens
        assert out.exact is False
    return rounds


def _verdict_length(verifier: ForcedAcceptance, draft: Draft, seed: int = 0, request_id: str = "a") -> int:
    request = Request(request_id, (1,), SamplingParams(), seed)
    scores = Scores(torch.zeros(draft.num_tokens + 1, _VOCAB_SIZE), Uniform())
    verdict = verifier.verify(Case(request, RequestKeys(seed), 1, draft, scores), HashedStream())
    assert verdict.token_ids[:-1] == draft.token_ids[: verdict.num_accepted]
    assert len(verdict.token_ids) == verdict.num_accepted + 1
    return verdict.num_accepted


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("seeds", [(3,), (3, 4)], ids=["alone", "two at once"])
def test_even_acceptance_is_less_than_one_token_off_at_any_time(
    rate: float, seeds: tuple[int, ...], temperature: float
) -> None:
    rounds = _decode(ForcedAcceptance(rate), seeds, temperature)
    assert len(rounds.by_request) == len(seeds)
    for history in rounds.by_request.values():
        due = accepted = 0.0
        for num_drafted, num_accepted in history:
            due += mean_acceptance_length(rate, num_drafted) - 1
            accepted += num_accepted
            assert abs(accepted - due) < 1 + 1e-9


def test_the_even_schedule_uses_only_the_two_nearest_lengths() -> None:
    verifier, draft = ForcedAcceptance(0.8), Draft.chain([1] * 5)
    lengths = [_verdict_length(verifier, draft) for _ in range(200)]
    assert set(lengths) == {2, 3}  # 2.689 are due in each round
    assert sum(lengths) / 200 == pytest.approx(mean_acceptance_length(0.8, 5) - 1, abs=1 / 200)


@pytest.mark.parametrize(("rate", "num_tokens"), [(0.6, 5), (0.8, 5), (0.9, 3)])
def test_independent_acceptance_meets_the_closed_form(rate: float, num_tokens: int) -> None:
    verifier, draft = ForcedAcceptance(rate, "iid", seed=1), Draft.chain([1] * num_tokens)
    lengths = torch.tensor([_verdict_length(verifier, draft) for _ in range(1200)], dtype=torch.float64)
    expected = (1 - rate ** (num_tokens + 1)) / (1 - rate)
    assert mean_acceptance_length(rate, num_tokens) == pytest.approx(expected)
    four_sigma = 4 * lengths.std().item() / 1200**0.5
    assert 1 + lengths.mean().item() == pytest.approx(expected, abs=four_sigma)
    for position in range(1, num_tokens + 1):
        share = (lengths >= position).double().mean().item()
        assert share == pytest.approx(rate**position, abs=4 * (0.25 / 1200) ** 0.5)


@pytest.mark.parametrize("schedule", ["even", "iid"])
def test_neighbours_in_a_batch_change_nothing(schedule: str) -> None:
    alone = [_decode(ForcedAcceptance(0.7, schedule), (seed,), 0.0, 24) for seed in (3, 4)]
    together = _decode(ForcedAcceptance(0.7, schedule), (3, 4), 0.0, 24)
    expected = [history for rounds in alone for history in rounds.by_request.values()]
    assert list(together.by_request.values()) == expected


def test_seeds_make_other_schedules_and_reset_starts_again() -> None:
    draft = Draft.chain([1] * 5)

    def lengths(verifier: ForcedAcceptance, seed: int = 0) -> list[int]:
        return [_verdict_length(verifier, draft, seed) for _ in range(12)]

    verifier = ForcedAcceptance(0.6, "iid")
    first, second = lengths(verifier), lengths(verifier)
    assert first != second
    verifier.reset()
    assert lengths(verifier) == first
    assert lengths(ForcedAcceptance(0.6, "iid", seed=1)) != first
    assert lengths(ForcedAcceptance(0.6, "iid"), seed=1) != first


def test_a_round_without_a_draft_commits_the_targets_own_token() -> None:
    assert _verdict_length(ForcedAcceptance(1.0), Draft.chain([])) == 0


def test_fallbacks_of_its_own_making_are_not_counted() -> None:
    class OneHot:
        def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
            return torch.eye(_VOCAB_SIZE)[1]

        def sure(self, node: int, path: Sequence[int]) -> int | None:
            return None

    request = Request("a", (1,), SamplingParams(), seed=0)
    case = Case(request, RequestKeys(0), 1, Draft.chain([1, 1]), Scores(torch.zeros(3, _VOCAB_SIZE), OneHot()))
    verdict = ForcedAcceptance(0.0).verify(case, HashedStream())
    assert (verdict.token_ids, verdict.num_fallbacks) == ((1,), 0)  # rejected, and said by the target all the same


def test_trees_are_refused() -> None:
    with pytest.raises(BenchError, match="chains"):
        _verdict_length(ForcedAcceptance(0.5), Draft((1, 2), (-1, -1), None))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(BenchError, match="from 0 to 1"):
        ForcedAcceptance(rate)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(UnknownOptionError, match="did you mean 'even'"):
        ForcedAcceptance(0.5, "evn")


def test_it_cannot_be_mistaken() -> None:
    verifier = ForcedAcceptance(0.8)
    assert verifier.exact is False
    assert verifier.note == "forced acceptance 0.8 (even)"
    assert "Forced" in repr(verifier)
    assert not any("forced" in name for name in VERIFIERS)
