"""Coupled: the tokens are those of the seed and the target, whoever drafts, however much, and beside whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evodraft.config import EngineConfig
from evodraft.drafters import ModelDrafter
from evodraft.params import SamplingParams
from evodraft.sampling import HashedStream, RequestKeys, exponential_noise
from evodraft.testing import (
    ScriptedController,
    SwappingLearner,
    TableDecoder,
    TableLM,
    coupled_tokens,
    outputs,
    run_all,
    table_engine,
)
from evodraft.testing.table_drafters import TABLE_DRAFTERS
from evodraft.types import ROOT, Draft, Request, Scores
from evodraft.verifiers import AutoVerifier, Case, CoupledVerifier

TARGET = TableLM.random(5, order=2, seed=31)
DRAFT = TableLM.random(5, order=2, seed=31, num_zeros=1)
NUM_TOKENS = 24


class RotatingBonus:
    """A processor with state: the favoured id depends on the number of calls."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        bonus = torch.zeros_like(scores)
        bonus[0, self.num_calls % scores.shape[-1]] = 1.5
        return scores + bonus


OPTIONS: Sequence[dict] = (
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 3},
    {"temperature": 1.5, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"temperature": 1.0, "logit_bias": {2: 1.0, 4: -float("inf")}},
    {"temperature": 1.0, "min_new_tokens": 9},
    {"temperature": 1.0, "max_new_tokens": 5},
)


def request(number: int = 0, *, processors=(), stop=(), **more) -> Request:
    """Eight different requests: prompts of 1 to 8 tokens, own laws, own seeds."""
    options = {"max_new_tokens": NUM_TOKENS, **OPTIONS[number]}
    prompt = tuple((3 * number + position**2) % 5 for position in range(number + 1))
    return Request(
        f"request {number}",
        prompt,
        SamplingParams(**options),
        seed=100 + number,
        is_seed_chosen=True,
        stop_token_ids=frozenset(stop),
        logits_processors=tuple(processors),
        **more,
    )


def ragged(**more) -> list[Request]:
    return [request(number, **more) for number in range(len(OPTIONS))]


@pytest.mark.parametrize("number", range(len(OPTIONS)))
@pytest.mark.parametrize("make_verifier", [CoupledVerifier, AutoVerifier])
def test_batch_of_one(make_drafter, number, make_verifier) -> None:
    engine = table_engine(TARGET, make_drafter(DRAFT), ScriptedController([3, 1, 4, 0, 2]), make_verifier())
    (tokens,) = outputs(engine, [request(number)])
    assert tokens == coupled_tokens(TARGET, lambda: request(number))
    assert engine.metrics.num_draft_tokens > 0


def test_ragged_batch_of_eight(make_drafter, make_controller) -> None:
    engine = table_engine(TARGET, make_drafter(DRAFT), make_controller(), CoupledVerifier())
    wanted = tuple(coupled_tokens(TARGET, lambda item=item: item) for item in ragged())
    assert outputs(engine, ragged()) == wanted


@pytest.mark.parametrize("max_batch", [1, 3])
@pytest.mark.parametrize("prefill_budget", [1, 3])
def test_admission_changes_no_token(max_batch, prefill_budget) -> None:
    config = EngineConfig(max_batch=max_batch, prefill_budget=prefill_budget)
    drafter = ModelDrafter(TableDecoder(DRAFT), 5)
    engine = table_engine(TARGET, drafter, ScriptedController([3]), CoupledVerifier(), config=config)
    assert outputs(engine, ragged()) == tuple(coupled_tokens(TARGET, lambda item=item: item) for item in ragged())


def test_with_stop_ids_and_stateful_processors(make_drafter) -> None:
    def make(number: int) -> Request:
        return request(number, stop=[3], processors=[RotatingBonus()])

    engine = table_engine(TARGET, make_drafter(DRAFT), ScriptedController([4]), CoupledVerifier())
    items = [make(number) for number in range(8)]
    tokens = outputs(engine, items)
    assert tokens == tuple(coupled_tokens(TARGET, lambda number=number: make(number)) for number in range(8))
    assert any(path[-1] == 3 for path in tokens)
    # X10: as many calls as plain decoding makes
    assert [item.logits_processors[0].num_calls for item in items] == [len(path) for path in tokens]


def test_a_learner_changes_no_token() -> None:
    tables = [TableLM.random(5, order=1, seed=seed) for seed in range(4)]
    decoder = TableDecoder(DRAFT)
    drafter = ModelDrafter(decoder, 5, load=lambda table: setattr(decoder, "table", table))
    learner = SwappingLearner(lambda feedback: tables[sum(feedback.commit.token_ids) % 4])
    engine = table_engine(TARGET, drafter, ScriptedController([3]), CoupledVerifier(), [learner])
    assert outputs(engine, ragged()) == tuple(coupled_tokens(TARGET, lambda item=item: item) for item in ragged())
    assert learner.versions.weights > 10


def test_plain_decoding_in_the_same_batch() -> None:
    engine = table_engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 5), ScriptedController([3]), CoupledVerifier())
    items = [request(number, speculative=number % 2 == 0) for number in range(8)]
    sessions = run_all(engine, items)
    for session, item in zip(sessions, items, strict=True):
        assert session.output_ids == coupled_tokens(TARGET, lambda item=item: item)
        assert (session.stats().num_draft_tokens > 0) == item.speculative


def test_samples_of_one_prompt_have_their_own_tokens() -> None:
    engine = table_engine(TARGET, ModelDrafter(TableDecoder(DRAFT), 5), ScriptedController([3]), CoupledVerifier())
    params = SamplingParams(temperature=1.0, max_new_tokens=12)
    items = [Request(f"sample {index}", (1, 2), params, seed=5, sample_index=index) for index in range(3)]
    tokens = outputs(engine, items)
    assert len(set(tokens)) == 3
    assert tokens == tuple(coupled_tokens(TARGET, lambda item=item: item) for item in items)


def test_a_draft_model_that_is_the_target_is_always_accepted() -> None:
    engine = table_engine(TARGET, ModelDrafter(TableDecoder(TARGET), 5), ScriptedController([4]), CoupledVerifier())
    run_all(engine, [request(0)])
    assert engine.metrics.num_accepted_tokens == engine.metrics.num_draft_tokens > 0


@given(
    seed=st.integers(0, 2**63),
    widths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    chosen=st.lists(st.sampled_from(range(len(OPTIONS))), min_size=1, max_size=6),
    max_batch=st.integers(1, 4),
    prefill_budget=st.integers(1, 9),
    drafter=st.sampled_from(sorted(TABLE_DRAFTERS)),
    stop=st.sets(st.integers(0, 4), max_size=1),
)
def test_whatever_the_engine_is_made_of(seed, widths, chosen, max_batch, prefill_budget, drafter, stop) -> None:
    target, draft = TableLM.random(5, order=1, seed=seed % 1000), TableLM.random(5, order=1, seed=seed % 7)
    items = [
        dataclasses.replace(request(number, stop=stop), request_id=f"{place}", seed=seed % 2**64 + place)
        for place, number in enumerate(chosen)
    ]
    config = EngineConfig(max_batch=max_batch, prefill_budget=prefill_budget)
    made = TABLE_DRAFTERS[drafter](draft)
    engine = table_engine(target, made, ScriptedController(widths), CoupledVerifier(), config=config)
    assert outputs(engine, items) == tuple(coupled_tokens(target, lambda item=item: item) for item in items)


# --- trees --------------------------------------------------------------------------------------------------------


class TableLaws:
    def __init__(self, prefix: Sequence[int]) -> None:
        self.prefix = prefix

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        return TARGET.law([*self.prefix, *path])

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return None


def verdict_on(parents: Sequence[int], token_ids: Sequence[int], seed: int, *, has_ends: bool = False):
    prefix = (1, 2, 3)
    item = Request("a", prefix, SamplingParams(temperature=1.0), seed=seed)
    draft = Draft(tuple(token_ids), tuple(parents), None)
    ends = frozenset(set(range(draft.num_tokens)).difference(draft.parents) if has_ends else ())
    case = Case(item, RequestKeys(seed), len(prefix), draft, Scores(torch.empty(0), TableLaws(prefix), ends))
    return CoupledVerifier().verify(case, HashedStream())


@pytest.mark.parametrize("has_ends", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_a_tree_yields_a_prefix_of_plain_coupled_decoding(seed, has_ends) -> None:
    plain = coupled_tokens(
        TARGET, lambda: Request("a", (1, 2, 3), SamplingParams(temperature=1.0, max_new_tokens=6), seed=seed)
    )
    full = [ROOT] * 5 + [parent for parent in range(5) for _ in range(5)]  # every pair of tokens
    verdict = verdict_on(full, [0, 1, 2, 3, 4] * 6, seed, has_ends=has_ends)
    assert verdict.token_ids == plain[: 3 - has_ends]
    assert verdict.num_accepted == 2
    # the right branch is not the first, and its sibling is wrong
    parents = (ROOT, ROOT, 1, 1, 3)
    tokens = ((plain[0] + 1) % 5, plain[0], (plain[1] + 1) % 5, plain[1], (plain[2] + 1) % 5)
    verdict = verdict_on(parents, tokens, seed, has_ends=has_ends)
    assert (verdict.path, verdict.token_ids) == ((1, 3), plain[:3])
    assert verdict_on((), (), seed).token_ids == plain[:1]


def test_a_token_is_the_argmin_of_noise_over_law() -> None:
    """The definition once more, without any helper."""
    for seed in range(30):
        (token_id,) = verdict_on((), (), seed).token_ids
        noise = exponential_noise([RequestKeys(seed).coupled(3)], 5)[0].double()
        race = noise / TARGET.law((1, 2, 3))
        assert token_id == int(race.argmin())
