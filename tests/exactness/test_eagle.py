"""The EAGLE drafter through the engine: greedy and coupled texts are those of plain decoding, rejection keeps the law.

Heads and targets are random, with so few tokens that drafts stand now and then; their features come from the target's
own runtime.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import pytest
import torch

from evodraft.config import EngineConfig
from evodraft.controllers.confidence import ConfidenceConfig, ConfidenceController
from evodraft.controllers.fixed import FixedConfig, FixedController
from evodraft.drafters.eagle.drafter import EagleDrafter
from evodraft.drafters.eagle.step import choose_step
from evodraft.drafters.sliced_head import SlicedHead
from evodraft.engine import Engine
from evodraft.params import LawParams, SamplingParams
from evodraft.runtime.choose import RuntimeOptions, choose_runtime
from evodraft.sampling import to_law
from evodraft.target import Target
from evodraft.testing import enumerate_outcomes, run_all
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model
from evodraft.types import Request
from evodraft.verifiers import CoupledVerifier, RejectionVerifier

VOCAB_SIZE: Final = 8
RUNTIMES: Final = ("native", "packed", "eager", "transformers")
PROMPTS: Final = ((1, 2, 3, 4, 5), (6,), (7, 1), (2, 2, 0, 3, 1, 1, 5, 6, 4, 7, 0, 3), (5, 4, 3))
SLICE: Final = (0, 2, 3, 5, 7)
CONTROLLERS: Final = {
    "chain": lambda: FixedController(FixedConfig(4)),
    "tree": lambda: FixedController(FixedConfig(3, 12)),
    "confidence": lambda: ConfidenceController(ConfidenceConfig()),
}
SAMPLING: Final[dict[str, dict[str, Any]]] = {
    "greedy": {"temperature": 0.0},
    "coupled": {"temperature": 0.9, "top_p": 0.95},
}


@functools.cache
def model_of(family: str) -> torch.nn.Module:
    return tiny_model(family, VOCAB_SIZE, seed=7)


def parts_of(
    model: torch.nn.Module, runtime: str = "auto", ids: Any = None, num_slots: int = 3, **changes: Any
) -> tuple[Target, EagleDrafter]:
    """A target and a drafter with a head of its own."""
    options = RuntimeOptions(runtime)
    head = tiny_head(model, seed=3, **changes)
    step = choose_step(head, options)
    output = SlicedHead(model.get_output_embeddings().weight, None, ids, step.linear)
    embedding = model.get_input_embeddings().weight.detach()
    drafter = EagleDrafter(head, embedding, output, num_slots, 60, step=step, vocab_size=VOCAB_SIZE)
    decoder = choose_runtime(model, options).decoder(num_slots, 80)
    return Target(decoder, taps=drafter.needs.taps), drafter


def requests_of(sampling: str, num_tokens: int = 24) -> list[Request]:
    """The third of them never drafts, the first may stop early."""
    return [
        Request(
            f"{number}",
            prompt,
            SamplingParams(num_tokens, **SAMPLING[sampling]),
            seed=number,
            is_seed_chosen=True,
            speculative=number != 2,
            stop_token_ids=frozenset({4} if number == 0 else ()),
        )
        for number, prompt in enumerate(PROMPTS)
    ]


@functools.cache
def plain(family: str, runtime: str, sampling: str) -> list[list[int]]:
    """One after the other, without a drafter."""
    target, _ = parts_of(model_of(family), runtime)
    engine = Engine(target, CoupledVerifier(), config=EngineConfig(max_batch=1))
    return [session.token_ids for session in run_all(engine, requests_of(sampling))]


def check(family: str, runtime: str, controller: str, sampling: str, **options: Any) -> None:
    target, drafter = parts_of(model_of(family), runtime, **options)
    config = EngineConfig(max_batch=3, prefill_budget=4)
    engine = Engine(target, CoupledVerifier(), drafter, CONTROLLERS[controller](), config=config)
    sessions = run_all(engine, requests_of(sampling))
    assert [session.error for session in sessions] == [None] * len(PROMPTS)
    assert [session.token_ids for session in sessions] == plain(family, runtime, sampling)
    stats = [session.stats() for session in sessions]
    num_accepted, num_drafted = (
        sum(getattr(one, f"num_{kind}_tokens") for one in stats) for kind in ("accepted", "draft")
    )
    assert 0 < num_accepted < num_drafted, "some drafts stood, and some did not"
    assert all(drafter.cache.length(slot) == 0 for slot in range(3))


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_texts_are_those_of_plain_decoding(runtime: str, controller: str, sampling: str) -> None:
    check("llama", runtime, controller, sampling)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("controller", ["chain", "tree"])
@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma", "gpt2"])
def test_families(family: str, controller: str, sampling: str) -> None:
    check(family, "auto", controller, sampling)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("controller", ["chain", "tree"])
@pytest.mark.parametrize("options", [{"ids": SLICE}, {"norm_before_residual": True}], ids=["sliced", "normed residual"])
def test_heads(options: dict[str, Any], controller: str, sampling: str) -> None:
    check("llama", "auto", controller, sampling, **options)


# ---- the law of rejection ----------------------------------------------------------------------------------------


def joint(
    model: torch.nn.Module, prompt: tuple[int, ...], num_tokens: int, law: LawParams
) -> dict[tuple[int, ...], float]:
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


@pytest.mark.parametrize("ids", [None, (0, 2, 3)])
@pytest.mark.parametrize(
    ("config", "num_tokens", "law"),
    [
        (FixedConfig(1), 2, LawParams(temperature=1.0)),
        (FixedConfig(2), 3, LawParams(temperature=0.8, top_k=2)),
        (FixedConfig(2, 5), 3, LawParams(temperature=0.8, top_k=3)),
        (FixedConfig(3, 9), 4, LawParams(temperature=1.2, top_p=0.6)),
    ],
)
def test_enumeration_in_float64(config: FixedConfig, num_tokens: int, law: LawParams, ids: Any) -> None:
    model = tiny_model("llama", 4, seed=1).double()
    params = SamplingParams(num_tokens, law.temperature, law.top_p, law.top_k)
    head = tiny_head(model, seed=2)
    step = choose_step(head, RuntimeOptions("eager"))
    output = SlicedHead(model.get_output_embeddings().weight, None, ids, step.linear)
    embedding = model.get_input_embeddings().weight.detach()
    drafter = EagleDrafter(head, embedding, output, 2, 16, step=step, vocab_size=4)
    target = Target(choose_runtime(model, RuntimeOptions("transformers")).decoder(2, 32), taps=drafter.needs.taps)
    num_rounds = 0

    def run(stream: Any) -> tuple[int, ...]:
        nonlocal num_rounds
        engine = Engine(target, RejectionVerifier(), drafter, FixedController(config), stream=stream)
        session = run_all(engine, [Request("a", (1, 2, 3), params, seed=0)])[0]
        num_rounds += session.stats().num_rounds
        return session.output_ids

    found, wanted = enumerate_outcomes(run, snap=False), joint(model, (1, 2, 3), num_tokens, law)
    assert num_rounds > 0
    assert set(found) == set(wanted)
    for path, mass in wanted.items():
        assert float(found[path]) == pytest.approx(mass, abs=1e-9)
