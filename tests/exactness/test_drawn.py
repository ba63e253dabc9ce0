"""Chains drawn in one call of the library: the law is the target's, and a seed's text that of plain decoding.

A mutant that names another law than it drew from is seen by the same check.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any, Final

import pytest
import torch

from evodraft import LLM
from evodraft.config import EngineConfig
from evodraft.controllers.fixed import FixedConfig, FixedController
from evodraft.drafters.eagle import drafter as eagle
from evodraft.drafters.eagle.drafter import EagleDrafter
from evodraft.drafters.eagle.step import choose_step
from evodraft.drafters.sliced_head import SlicedHead
from evodraft.drafters.vocabulary import Vocabulary
from evodraft.engine import Engine
from evodraft.params import LawParams, SamplingParams
from evodraft.runtime.choose import RuntimeOptions, choose_runtime
from evodraft.runtime.native.problem import native_problem
from evodraft.sampling import to_law
from evodraft.target import Target
from evodraft.testing import chi_square_p_value, run_all
from evodraft.testing.heads import tiny_head
from evodraft.testing.pairs import tiny_pair
from evodraft.testing.tiny import tiny_model
from evodraft.types import Request
from evodraft.verifiers import RejectionVerifier

pytestmark = pytest.mark.skipif(native_problem(torch.zeros(1)) is not None, reason="nothing can be compiled here")

VOCAB_SIZE: Final = 6
PROMPT: Final = (1, 2, 3)
NUM_TOKENS: Final = 3
NUM_SAMPLES: Final = 6000
TEMPERATURE: Final = 0.6
MIN_P_VALUE: Final = 1e-3  # seeds are fixed: a test passes always or never


@functools.cache
def model() -> torch.nn.Module:
    return tiny_model("llama", VOCAB_SIZE, seed=1)


@functools.cache
def wanted() -> dict[tuple[int, ...], float]:
    """Probabilities by whole forward passes of the model itself; a text ends with token 4."""
    paths, done = {(): 1.0}, {}
    for _ in range(NUM_TOKENS):
        longer = {}
        for path, mass in paths.items():
            with torch.no_grad():
                logits = model()(input_ids=torch.tensor([[*PROMPT, *path]]), use_cache=False).logits[0, -1]
            for token_id, probability in enumerate(to_law(logits, LawParams(TEMPERATURE)).tolist()):
                (done if token_id == 4 else longer)[(*path, token_id)] = mass * probability
        paths = longer
    return paths | done


def sampled(ids: Any) -> Counter[tuple[int, ...]]:
    """Many requests by rejection, all of whose drafts the library drew."""
    head = tiny_head(model(), seed=2)
    step = choose_step(head, RuntimeOptions("native"))
    output = SlicedHead(3.0 * model().get_output_embeddings().weight.detach(), None, ids, step.linear)
    embedding = model().get_input_embeddings().weight.detach()
    drafter = EagleDrafter(head, embedding, output, 8, 16, step=step, vocab_size=VOCAB_SIZE)
    target = Target(choose_runtime(model(), RuntimeOptions("native")).decoder(8, 16), taps=drafter.needs.taps)
    engine = Engine(
        target, RejectionVerifier(), drafter, FixedController(FixedConfig(2)), config=EngineConfig(max_batch=8)
    )
    params = SamplingParams(NUM_TOKENS, TEMPERATURE)
    requests = [
        Request(f"{seed}", PROMPT, params, seed=seed, stop_token_ids=frozenset({4})) for seed in range(NUM_SAMPLES)
    ]
    sessions = run_all(engine, requests)
    assert engine.metrics.num_accepted_tokens > 0
    return Counter(tuple(session.token_ids[len(PROMPT) :]) for session in sessions)


@pytest.fixture
def no_steps(monkeypatch) -> None:
    monkeypatch.setattr(EagleDrafter, "step", None)


@pytest.mark.parametrize("ids", [None, (0, 2, 3, 4)])
def test_samples_fit(ids: Any, no_steps) -> None:
    assert chi_square_p_value(sampled(ids), wanted()) > MIN_P_VALUE


MUTANTS: Final = {
    "q of another temperature": lambda drawn: drawn.q.sqrt() / drawn.q.sqrt().sum(dim=-1, keepdim=True),
    "q of the token before": lambda drawn: drawn.q.roll(1, dims=0),
    "q of other ids": lambda drawn: drawn.q.roll(1, dims=1),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_another_law_than_it_was_drawn_from_is_seen(mutant: str, no_steps, monkeypatch) -> None:
    def wrong(*args):
        return [dataclasses.replace(drawn, q=MUTANTS[mutant](drawn)) for drawn in original(*args)]

    original = eagle.drawn_chains
    monkeypatch.setattr(eagle, "drawn_chains", wrong)
    assert chi_square_p_value(sampled(None), wanted()) < 1e-6


# ---- coupled -----------------------------------------------------------------------------------------------------

PROMPTS: Final = ("Hello world", "ab", "The quick brown fox jumps", "x" * 30, "1 2 3 1 2 3 1 2")
ANSWER: Final[dict[str, Any]] = {"max_new_tokens": 24, "ignore_eos": True, "seed": 11}


@functools.cache
def plain(temperature: float) -> tuple[tuple[int, ...], ...]:
    pair = tiny_pair("llama")
    llm = LLM.from_pretrained((pair.target, pair.tokenizer), drafter=None)
    outs = llm.generate(list(PROMPTS), temperature=temperature, **ANSWER)
    return tuple(out.token_ids for out in outs)


@pytest.mark.parametrize("max_batch", [1, 3])
@pytest.mark.parametrize("is_sliced", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_seeded_texts_are_those_of_plain_decoding(temperature, is_sliced, max_batch, no_steps) -> None:
    pair = tiny_pair("llama")
    said = sorted({token_id for token_ids in plain(temperature) for token_id in token_ids})
    vocabulary = Vocabulary(tuple(sorted({*said[::2], 5})), "half of what is said") if is_sliced else None
    llm = LLM.from_pretrained(
        (pair.target, pair.tokenizer),
        drafter={"name": "eagle", "head": tiny_head(pair.target)},
        controller="fixed:4",
        vocabulary=vocabulary,
        max_batch=max_batch,
    )
    outs = llm.generate(list(PROMPTS), temperature=temperature, **ANSWER)
    assert tuple(out.token_ids for out in outs) == plain(temperature)
    assert sum(out.stats.num_draft_tokens for out in outs) > 100
    assert sum(out.stats.num_accepted_tokens for out in outs) > 0
