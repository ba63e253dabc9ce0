"""X13: with invariant numerics, greedy and coupled tokens in bfloat16 are those of plain decoding, one token at a time.

Whatever drafts, however far, beside whomever, and however the prompt was cut: token by token, no tolerance. That the
comparison can fail is shown with a step whose bits depend on the width of a pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import pytest
import torch

from evodraft import LLM, Completion
from evodraft.controllers import CONTROLLERS
from evodraft.drafters import DRAFTERS
from evodraft.errors import UnsupportedModelError
from evodraft.runtime import choose
from evodraft.runtime.choose import runtime_of
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.step import LayersOutput
from evodraft.testing.heads import tiny_head
from evodraft.testing.pairs import TinyPair, tiny_pair

FAMILIES: Final = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")
PROMPTS: Final = ("Hello world", "ab", "The quick brown fox jumps", "x" * 30, "1 2 3 1 2 3 1 2", "Zoë", "q", "\n\n12")
NUM_TOKENS: Final = 40
SAMPLING: Final[dict[str, dict[str, Any]]] = {
    "greedy": {"temperature": 0.0},
    "coupled": {"temperature": 0.8, "top_p": 0.95, "seed": 7},
}
DRAFTED: Final = [name for name in DRAFTERS if name != "auto"]
LENGTHS: Final = (1, 2, 5, 15)


@functools.cache
def pair(family: str) -> TinyPair:
    models = tiny_pair(family, noise=0.02)
    return models._replace(target=models.target.bfloat16(), draft=models.draft.bfloat16())


def llm_of(family: str, drafter: str | None, controller: str = "fixed:5", **options: Any) -> LLM:
    models = pair(family)
    specs: dict[str | None, Any] = {
        "model": {"name": "model", "model": (models.draft, models.tokenizer)},
        "eagle": {"name": "eagle", "head": tiny_head(models.target)},
    }
    options = {"numerics": "invariant", "verifier": "coupled", **options}
    return LLM.from_pretrained(
        (models.target, models.tokenizer), drafter=specs.get(drafter, drafter), controller=controller, **options
    )


def tokens(llm: LLM, sampling: str, prompts: Sequence[str] = PROMPTS) -> list[tuple[int, ...]]:
    outs: list[Completion] = llm.generate(
        list(prompts), max_new_tokens=NUM_TOKENS, ignore_eos=True, **SAMPLING[sampling]
    )
    assert all(out.exact for out in outs)
    return [out.token_ids for out in outs]


@functools.cache
def plain(family: str, sampling: str) -> list[tuple[int, ...]]:
    """One request at a time, its prompt in one piece, one token a pass."""
    llm = llm_of(family, None, max_batch=1)
    return [tokens(llm, sampling, [prompt])[0] for prompt in PROMPTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_texts_are_varied(family: str) -> None:
    greedy, sampled = (plain(family, sampling) for sampling in SAMPLING)
    assert greedy != sampled
    assert sum(len(set(token_ids)) for token_ids in greedy) > 5 * len(PROMPTS)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("drafter", DRAFTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_families_and_drafters(family: str, drafter: str, sampling: str) -> None:
    """Eight rows that come to different lengths."""
    llm = llm_of(family, drafter)
    outs = llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True, **SAMPLING[sampling])
    assert [out.token_ids for out in outs] == plain(family, sampling)
    num_accepted = sum(out.stats.num_accepted_tokens for out in outs)
    num_rejected = sum(out.stats.num_draft_tokens for out in outs) - num_accepted
    # what is drawn from random weights repeats nothing, and a head with random weights is hardly ever right
    is_silent = (drafter, sampling) == ("ngram", "coupled") or drafter == "eagle"
    assert is_silent or min(num_accepted, num_rejected) > 0, "both kinds of rounds are seen"


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("controller", [*CONTROLLERS, *(f"fixed:{length}" for length in LENGTHS)])
def test_controllers_and_lengths(controller: str, sampling: str) -> None:
    assert tokens(llm_of("llama", "model", controller), sampling) == plain("llama", sampling)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("max_batch", [1, 2, 3, 5])
def test_batches(max_batch: int, sampling: str) -> None:
    """Rows come and go while others run; and the order of requests decides who is beside whom."""
    llm = llm_of("qwen3", "model", max_batch=max_batch)
    assert tokens(llm, sampling) == plain("qwen3", sampling)
    assert tokens(llm, sampling, PROMPTS[::-1]) == plain("qwen3", sampling)[::-1]


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("prefill_budget", [1, 3, 16])
@pytest.mark.parametrize("drafter", [None, "model"])
def test_pieces_of_prompts(drafter: str | None, prefill_budget: int, sampling: str) -> None:
    llm = llm_of("mistral", drafter, prefill_budget=prefill_budget)
    assert tokens(llm, sampling) == plain("mistral", sampling)


@pytest.mark.parametrize("sampling", SAMPLING)
def test_the_demo(sampling: str) -> None:
    """A trained model: its laws are sharp, and most of what its draft says is accepted."""
    prompts = ("The history of the world is", "def fib(n):", "Dear Sir or Madam,")
    options: dict[str, Any] = {"numerics": "invariant", "verifier": "coupled"}
    with LLM.from_pretrained("demo", drafter=None, max_batch=1, **options) as alone:
        runtime = runtime_of(alone.engine.target.decoder)
        assert runtime is not None
        assert runtime.facts.dtype == torch.bfloat16
        expected = [tokens(alone, sampling, [prompt])[0] for prompt in prompts]
    for length in (3, 15):
        with LLM.from_pretrained("demo", drafter="model", controller=f"fixed:{length}", **options) as llm:
            assert tokens(llm, sampling, prompts) == expected


# ---- the comparison and the trial at start can fail -------------------------------------------------------------


class ByWidth(NativeStep):
    """Rounds wide passes more coarsely: as much as bfloat16 does."""

    def layers(self, hidden, cache, step, first, last, taps):
        output = super().layers(hidden, cache, step, first, last, taps)
        return LayersOutput(output.hidden.bfloat16().float() if step.width > 1 else output.hidden, output.taps)


class ByNeighbours(NativeStep):
    def layers(self, hidden, cache, step, first, last, taps):
        output = super().layers(hidden, cache, step, first, last, taps)
        return LayersOutput(output.hidden.bfloat16().float() if len(step.slots) > 1 else output.hidden, output.taps)


@pytest.mark.parametrize("mutant", [ByWidth, ByNeighbours])
def test_a_step_that_is_not_invariant_is_refused(monkeypatch: pytest.MonkeyPatch, mutant: type[NativeStep]) -> None:
    monkeypatch.setattr(choose, "NativeStep", mutant)
    with pytest.raises(UnsupportedModelError, match=r"native: its numerics are not invariant: .*computed other bits"):
        llm_of("llama", "model", runtime="native")
    found = runtime_of(llm_of("llama", "model", runtime="native", numerics="auto").engine.target.decoder)
    assert found is not None
    assert found.report.numerics.name == "fast"


@pytest.mark.parametrize(("mutant", "max_batch"), [(ByWidth, 1), (ByNeighbours, 8)])
def test_a_step_that_is_not_invariant_says_other_tokens(
    monkeypatch: pytest.MonkeyPatch, mutant: type[NativeStep], max_batch: int
) -> None:
    monkeypatch.setattr(choose, "NativeStep", mutant)
    options: dict[str, Any] = {"runtime": "native", "numerics": "fast", "max_batch": max_batch}
    differing = [
        llm_of(family, "model", **options).generate(
            list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True, **SAMPLING[sampling]
        )
        for family in FAMILIES
        for sampling in SAMPLING
    ]
    expected = [plain(family, sampling) for family in FAMILIES for sampling in SAMPLING]
    assert [[out.token_ids for out in outs] for outs in differing] != expected
