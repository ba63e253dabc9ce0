"""Trees over real models: greedy and coupled tokens are those of plain decoding, on any runtime, in any company."""

from __future__ import annotations

import functools

import pytest
import torch

from evodraft.config import EngineConfig
from evodraft.drafters import ModelDrafter
from evodraft.engine import Engine
from evodraft.params import SamplingParams
from evodraft.runtime.choose import RuntimeOptions, choose_runtime
from evodraft.runtime.hf import HfDecoder
from evodraft.session import Session
from evodraft.target import Target
from evodraft.testing import ScriptedController, run_all
from evodraft.testing.pairs import TinyPair, tiny_pair
from evodraft.testing.slices import SlicedDrafter
from evodraft.testing.trees import TreeDrafter, random_shape
from evodraft.types import Plan, Request
from evodraft.verifiers import CoupledVerifier

VOCAB_SIZE = 264
NUM_TOKENS = 40
PROMPTS = ((1, 2, 3), (50,), (9, 8, 7, 6, 5, 4, 3), tuple(range(30, 60)))
RUNTIMES = {
    "transformers": lambda model: HfDecoder(model, 4, 160),
    "eager": lambda model: choose_runtime(model, RuntimeOptions("eager")).decoder(4, 160),
    "native": lambda model: choose_runtime(model, RuntimeOptions("native")).decoder(4, 160),
}
FAMILIES = {
    "llama": ("transformers", "eager", "native"),
    "mistral": ("transformers", "eager", "native"),  # a sliding window that is shorter than a draft
    "qwen3": ("transformers", "native"),
    "gemma3": ("transformers",),
    "gpt2": ("transformers",),
}
SAMPLING = {"greedy": {"temperature": 0.0}, "coupled": {"temperature": 0.8, "top_p": 0.9}}


@functools.cache
def pair(family: str) -> TinyPair:
    return tiny_pair(family, noise=0.05)


def requests(sampling: str, **more) -> list[Request]:
    params = SamplingParams(NUM_TOKENS, **SAMPLING[sampling])
    return [
        Request(f"{row}", prompt, params, seed=row, is_seed_chosen=True, speculative=row != 2, **more)
        for row, prompt in enumerate(PROMPTS)
    ]


def drafter_of(family: str, ids: range | None = None) -> TreeDrafter:
    inner = ModelDrafter(HfDecoder(pair(family).draft, 4, 160, self_check=False), VOCAB_SIZE)
    return TreeDrafter(inner if ids is None else SlicedDrafter(inner, ids), random_shape(3))


@functools.cache
def plain(family: str, sampling: str) -> list[list[int]]:
    decoder = HfDecoder(pair(family).target, 4, 160, self_check=False)
    engine = Engine(Target(decoder), CoupledVerifier(), config=EngineConfig(max_batch=1))
    return [session.token_ids for session in run_all(engine, requests(sampling))]


def grown(family: str, runtime: str, sampling: str, *, max_batch: int = 4, **options) -> list[Session]:
    """Trees of up to 24 nodes, then a chain, then a small tree, in turn; the third request decodes plainly."""
    controller = ScriptedController([Plan(4, 12), Plan(5, 24), Plan(3), Plan(2, 3), Plan(6, 16)] * 4)
    target = Target(RUNTIMES[runtime](pair(family).target))
    config = EngineConfig(max_batch=max_batch)
    engine = Engine(target, CoupledVerifier(), drafter_of(family, **options), controller, config=config)
    sessions = run_all(engine, requests(sampling))
    assert all(session.error is None for session in sessions)
    return sessions


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize(
    ("family", "runtime"), [(family, runtime) for family, names in FAMILIES.items() for runtime in names]
)
def test_any_runtime(family, runtime, sampling) -> None:
    sessions = grown(family, runtime, sampling)
    assert [session.token_ids for session in sessions] == plain(family, sampling)
    assert max(len(session.stats().accepted_per_position) for session in sessions) >= 2


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize(("max_batch", "ids"), [(1, None), (2, range(0, VOCAB_SIZE, 2)), (4, range(100, 264))])
def test_any_batch_and_slice_on_the_native_runtime(sampling, max_batch, ids) -> None:
    sessions = grown("llama", "native", sampling, max_batch=max_batch, ids=ids)
    assert [session.token_ids for session in sessions] == plain("llama", sampling)


def test_bfloat16_on_the_native_runtime_which_is_invariant() -> None:
    """X13 for trees: bit by bit, whatever is drafted."""
    model = tiny_pair("llama", noise=0.02).target.bfloat16()
    runtime = choose_runtime(model, RuntimeOptions("native", "invariant"))
    texts = []
    for drafter in (None, drafter_of("llama")):
        controller = None if drafter is None else ScriptedController([Plan(4, 12), Plan(3), Plan(5, 24)] * 4)
        engine = Engine(Target(runtime.decoder(4, 160)), CoupledVerifier(), drafter, controller)
        texts.append([session.token_ids for session in run_all(engine, requests("coupled"))])
    assert texts[0] == texts[1]


def test_a_tree_does_not_grow_beyond_the_cache() -> None:
    """The slot is as long as the request needs; a tree of many nodes is cut to what is left."""
    target = Target(HfDecoder(pair("llama").target, 1, max_length=3 + NUM_TOKENS, self_check=False))
    engine = Engine(target, CoupledVerifier(), drafter_of("llama"), ScriptedController([Plan(4, 60)]))
    (session,) = run_all(engine, requests("greedy")[:1])
    assert session.error is None
    assert session.token_ids == plain("llama", "greedy")[0]
    assert torch.tensor(session.token_ids).max() < VOCAB_SIZE
