"""Real noise, many samples: frequencies of whole outputs fit the target's law for every exact verifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from evodraft.controllers import ConfidenceController
from evodraft.drafters import ModelDrafter, NgramConfig, NgramDrafter
from evodraft.engine import Engine
from evodraft.params import SamplingParams
from evodraft.testing import (
    ScriptedController,
    SwappingLearner,
    TableDecoder,
    TableLM,
    chi_square_p_value,
    plain_law,
    run_all,
    table_engine,
)
from evodraft.types import Request
from evodraft.verifiers import VERIFIERS

TARGET = TableLM.random(3, order=2, seed=41)
DRAFTS = [TableLM.random(3, order=1, seed=seed) for seed in (42, 43)]
PROMPT = (1, 2, 0)
NUM_SAMPLES = 1600
MIN_P_VALUE = 1e-3  # seeds are fixed: a test passes always or never

EXACT = [name for name, entry in VERIFIERS.items() if entry.build(entry.config()).exact]


def request(seed: int = 0, **options) -> Request:
    params = SamplingParams(max_new_tokens=4, **{"temperature": 1.0, **options})
    return Request(f"{seed}", PROMPT, params, seed=seed, is_seed_chosen=seed % 2 == 0, stop_token_ids=frozenset({2}))


def samples(engine: Engine, requests: Sequence[Request]) -> Iterator[tuple[int, ...]]:
    for session in run_all(engine, requests):
        yield tuple(session.token_ids[len(PROMPT) :])


def with_learning(name: str) -> Engine:
    """A draft model whose weights change after every step, in a way that depends on what was said."""
    entry = VERIFIERS[name]
    decoder = TableDecoder(DRAFTS[0])
    drafter = ModelDrafter(decoder, 3, load=lambda table: setattr(decoder, "table", table))
    learner = SwappingLearner(lambda feedback: DRAFTS[feedback.commit.token_ids[-1] % 2])
    return table_engine(TARGET, drafter, ScriptedController([3, 1]), entry.build(entry.config()), [learner])


@pytest.mark.parametrize("name", EXACT)
def test_with_a_learner_on(name) -> None:
    engine = with_learning(name)
    counts = Counter(samples(engine, [request(seed) for seed in range(NUM_SAMPLES)]))
    assert chi_square_p_value(counts, plain_law(TARGET, request)) > MIN_P_VALUE
    assert 0 < engine.metrics.num_accepted_tokens < engine.metrics.num_draft_tokens


@pytest.mark.parametrize("name", EXACT)
def test_with_choices_and_a_cut_law(name) -> None:
    entry = VERIFIERS[name]
    options = {"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 2.0}
    drafter = NgramDrafter(NgramConfig(max_ngram=2, min_ngram=1))
    engine = table_engine(TARGET, drafter, ConfidenceController(), entry.build(entry.config()))
    counts = Counter(samples(engine, [request(seed, **options) for seed in range(NUM_SAMPLES)]))
    assert chi_square_p_value(counts, plain_law(TARGET, lambda: request(**options))) > MIN_P_VALUE
    assert engine.metrics.num_draft_tokens > 0


def test_a_wrong_law_is_caught() -> None:
    """The same number of samples against a law that differs in one row of the table by 1/8."""
    counts = Counter(samples(with_learning("rejection"), [request(seed) for seed in range(NUM_SAMPLES)]))
    laws = TARGET.laws.clone()
    row = laws[2 * 3 + 0]
    row[row.argmax()] -= 1 / 8
    row[row.argmin()] += 1 / 8
    assert chi_square_p_value(counts, plain_law(TableLM(laws, order=2), request)) < 1e-6
