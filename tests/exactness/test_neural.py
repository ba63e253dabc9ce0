"""Real transformers models of vocabulary 4: enumerated in float64, sampled in float32."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from evodraft.config import EngineConfig
from evodraft.drafters import ModelDrafter
from evodraft.engine import Engine
from evodraft.params import LawParams, SamplingParams
from evodraft.runtime.hf import HfDecoder
from evodraft.sampling import HashedStream, to_law
from evodraft.target import Target
from evodraft.testing import (
    ScriptedController,
    SwappingLearner,
    chi_square_p_value,
    enumerate_outcomes,
    outputs,
    run_all,
)
from evodraft.testing.slices import SlicedDrafter
from evodraft.testing.tiny import tiny_model
from evodraft.testing.trees import TreeDrafter, random_shape
from evodraft.types import Plan, Request
from evodraft.verifiers import VERIFIERS, RejectionVerifier

VOCAB_SIZE = 4
PROMPTS = ((1, 2, 3), (0, 3))


def joint(model: torch.nn.Module, prompt: tuple[int, ...], num_tokens: int, law: LawParams) -> dict:
    """Probabilities by whole forward passes of the model itself."""
    paths = {(): 1.0}
    for _ in range(num_tokens):
        longer = {}
        for path, mass in paths.items():
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *path]]), use_cache=False).logits[0, -1]
            for token_id, probability in enumerate(to_law(logits, law).tolist()):
                if probability > 0:
                    longer[(*path, token_id)] = mass * probability
        paths = longer
    return paths


def drafter_of(seed: int, dtype: torch.dtype, *, has_updates: bool = False) -> ModelDrafter:
    model = tiny_model("llama", vocab_size=VOCAB_SIZE, seed=seed, num_hidden_layers=1).to(dtype)

    def load(scale: object) -> None:
        with torch.no_grad():
            model.lm_head.weight.copy_(weight * scale)

    weight = model.lm_head.weight.detach().clone()
    return ModelDrafter(HfDecoder(model, num_slots=2, max_length=16), VOCAB_SIZE, load if has_updates else None)


@pytest.mark.parametrize(
    ("num_tokens", "widths", "law"),
    [
        (2, [1], LawParams(temperature=1.0)),
        (3, [2], LawParams(temperature=0.8, top_k=2)),
        (3, [2], LawParams(temperature=1.5, top_p=0.6)),
        (5, [4], LawParams(temperature=0.0)),
    ],
)
def test_enumeration_in_float64(num_tokens, widths, law) -> None:
    model = tiny_model("llama", vocab_size=VOCAB_SIZE, seed=1).double()
    target = Target(HfDecoder(model, num_slots=2, max_length=16))
    drafter = drafter_of(2, torch.float64)
    params = SamplingParams(num_tokens, law.temperature, law.top_p, law.top_k)

    def run(stream):
        engine = Engine(target, RejectionVerifier(), drafter, ScriptedController(widths), stream=stream)
        return outputs(engine, [Request("a", PROMPTS[0], params, seed=0)])[0]

    law_of_engine = enumerate_outcomes(run, snap=False)
    wanted = joint(model, PROMPTS[0], num_tokens, law)
    assert set(law_of_engine) == set(wanted)
    for path, mass in wanted.items():
        assert float(law_of_engine[path]) == pytest.approx(mass, abs=1e-9)


@pytest.mark.parametrize("law", [LawParams(temperature=1.0), LawParams(temperature=0.7, top_k=3)], ids=str)
def test_trees_enumerated_in_float64(law) -> None:
    """Of a model with a sliding window, by a drafter that grows from a slice; the second slot runs a chain."""
    model = tiny_model("mistral", vocab_size=VOCAB_SIZE, seed=1, sliding_window=3).double()
    target = Target(HfDecoder(model, num_slots=2, max_length=24))
    drafter = TreeDrafter(SlicedDrafter(drafter_of(2, torch.float64), [0, 1, 3]), random_shape(7))
    params = SamplingParams(3, law.temperature, law.top_p, law.top_k)
    num_accepted = 0

    def run(stream):
        nonlocal num_accepted
        engine = Engine(target, RejectionVerifier(), drafter, ScriptedController([Plan(2, 6)]), stream=stream)
        items = [Request("a", PROMPTS[0], params, 0), Request("b", PROMPTS[1], SamplingParams(6), 1)]
        first, second = outputs(engine, items)
        num_accepted += engine.metrics.num_accepted_tokens
        return first, second

    law_of_engine = enumerate_outcomes(run, snap=False)
    wanted = joint(model, PROMPTS[0], 3, law)
    (greedy,) = joint(model, PROMPTS[1], 6, LawParams())
    assert {second for _, second in law_of_engine} == {greedy}
    assert {first for first, _ in law_of_engine} == set(wanted)
    for (first, _), mass in law_of_engine.items():
        assert float(mass) == pytest.approx(wanted[first], abs=1e-9)
    assert num_accepted > 0


def test_two_sequences_enumerated_in_float64() -> None:
    model = tiny_model("llama", vocab_size=VOCAB_SIZE, seed=3).double()
    target = Target(HfDecoder(model, num_slots=2, max_length=16))
    drafter = drafter_of(4, torch.float64)
    law = LawParams(temperature=1.0, top_k=2)
    params = SamplingParams(2, temperature=1.0, top_k=2)

    def run(stream):
        engine = Engine(target, RejectionVerifier(), drafter, ScriptedController([1]), stream=stream)
        return outputs(engine, [Request(f"{seed}", prompt, params, seed) for seed, prompt in enumerate(PROMPTS)])

    first, second = (joint(model, prompt, 2, law) for prompt in PROMPTS)
    for (one, other), mass in enumerate_outcomes(run, snap=False).items():
        assert float(mass) == pytest.approx(first[one] * second[other], abs=1e-9)


@pytest.mark.parametrize("name", list(VERIFIERS))
def test_samples_fit_with_a_learner_on(name) -> None:
    model = tiny_model("llama", vocab_size=VOCAB_SIZE, seed=5)
    entry = VERIFIERS[name]
    engine = Engine(
        Target(HfDecoder(model, num_slots=8, max_length=16)),
        entry.build(entry.config()),
        ModelDrafter(HfDecoder(tiny_model("llama", vocab_size=VOCAB_SIZE, seed=6), 8, 16), VOCAB_SIZE, lambda _: None),
        ScriptedController([2, 1]),
        [SwappingLearner(lambda feedback: "new weights")],
        EngineConfig(max_batch=8),
        HashedStream(),
    )
    params = SamplingParams(3, temperature=0.9)
    requests = [Request(f"{seed}", PROMPTS[0], params, seed, is_seed_chosen=seed % 2 == 0) for seed in range(800)]
    counts = Counter(session.output_ids for session in run_all(engine, requests))
    assert chi_square_p_value(counts, joint(model, PROMPTS[0], 3, LawParams(temperature=0.9))) > 1e-3
