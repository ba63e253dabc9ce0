"""A seed names a text: the same tokens for the same seed and target, whatever drafts and whoever shares the batch."""

from __future__ import annotations

import functools
from typing import Any, Final

import pytest

from evodraft import LLM
from evodraft.testing.pairs import TinyPair, tiny_pair

PROMPTS: Final = ("Hello world", "ab", "The quick brown fox jumps", "x" * 30, "1 2 3 1 2 3 1 2", "Zoë", "q", "\n\n12")
LAWS: Final = (
    {"temperature": 0.8, "top_p": 0.9, "top_k": 50},
    {"temperature": 1.0},
    {"temperature": 1.7, "min_p": 0.02},
    {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.3},
)
SAMPLING: Final = {"max_new_tokens": 20, "seed": 7, "ignore_eos": True, **LAWS[0]}
DRAFTING: Final = [
    (None, "auto"),
    ("ngram", "fixed:4"),
    ("model", "fixed:1"),
    ("model", "fixed:3"),
    ("model", "fixed:8"),
    ("model", "confidence"),
]


@functools.cache
def pair() -> TinyPair:
    return tiny_pair("qwen3", noise=0.2)


def llm_of(drafter: str | None, controller: str = "auto", **options: Any) -> LLM:
    models = pair()
    spec = {"name": "model", "model": (models.draft, models.tokenizer)} if drafter == "model" else drafter
    return LLM.from_pretrained((models.target, models.tokenizer), drafter=spec, controller=controller, **options)


@functools.cache
def expected(law: int = 0) -> tuple[tuple[int, ...], ...]:
    """Plain decoding, one prompt at a time, in a runtime without a drafter."""
    llm = llm_of(None)
    return tuple(llm.generate(prompt, **(SAMPLING | LAWS[law])).token_ids for prompt in PROMPTS)


@pytest.mark.parametrize(("drafter", "controller"), DRAFTING)
@pytest.mark.parametrize("law", range(len(LAWS)))
def test_whatever_drafts_and_whoever_shares_the_batch(law: int, drafter: str | None, controller: str) -> None:
    llm, options = llm_of(drafter, controller), SAMPLING | LAWS[law]
    batch = llm.generate(list(PROMPTS), **options)
    assert tuple(out.token_ids for out in batch) == expected(law)
    assert (sum(out.stats.num_draft_tokens for out in batch) > 0) == (drafter is not None)
    assert (sum(out.stats.num_accepted_tokens for out in batch) > 0) == (drafter == "model")
    turned = llm.generate(list(reversed(PROMPTS)), **options)
    assert tuple(out.token_ids for out in reversed(turned)) == expected(law)
    assert llm.generate(PROMPTS[2], **options).token_ids == expected(law)[2]
    plain = llm.generate(list(PROMPTS), speculative=False, **options)
    assert tuple(out.token_ids for out in plain) == expected(law)
    streamed = [token_id for piece in llm.stream(PROMPTS[2], **options) for token_id in piece.token_ids]
    assert tuple(streamed) == expected(law)[2]


def test_fewer_slots_than_prompts() -> None:
    outs = llm_of("model", "fixed:3", max_batch=3).generate(list(PROMPTS), **SAMPLING)
    assert tuple(out.token_ids for out in outs) == expected()


def test_neighbours_with_other_parameters() -> None:
    llm = llm_of("model", "fixed:3")
    stream = llm.stream(PROMPTS[4], max_new_tokens=40, temperature=1.5, seed=1)
    next(stream)
    assert llm.generate(PROMPTS[0], **SAMPLING).token_ids == expected()[0]
    stream.close()


def test_auto_is_coupled_for_a_seed() -> None:
    coupled = llm_of("model", "fixed:3", verifier="coupled").generate(list(PROMPTS), **SAMPLING)
    assert tuple(out.token_ids for out in coupled) == expected()
    rejection = llm_of("model", "fixed:3", verifier="rejection").generate(list(PROMPTS), **SAMPLING)
    assert tuple(out.token_ids for out in rejection) != expected()


def test_other_seeds_give_other_texts() -> None:
    texts = {llm_of("ngram").generate(PROMPTS[0], **(SAMPLING | {"seed": seed})).token_ids for seed in range(8)}
    assert len(texts) == 8


def test_prompts_of_a_batch_do_not_share_noise_by_accident() -> None:
    """The same prompt twice with one seed is the same text twice: position and seed say it all."""
    first, second = llm_of("model", "fixed:3").generate([PROMPTS[0]] * 2, **SAMPLING)
    assert first.token_ids == second.token_ids == expected()[0]


# --- several samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drafter", "controller"), DRAFTING)
def test_samples_have_their_own_noise_and_do_not_depend_on_their_number(drafter: str | None, controller: str) -> None:
    llm = llm_of(drafter, controller)
    four = llm.generate(PROMPTS[0], n=4, **SAMPLING).samples
    three = llm.generate([PROMPTS[1], PROMPTS[0]], n=3, **SAMPLING)[1].samples
    assert [out.token_ids for out in four[:3]] == [out.token_ids for out in three]
    assert len({out.token_ids for out in four}) == 4
    assert four[0].token_ids == expected()[0]
    assert [out.token_ids for out in four] == list(plain_samples())


@functools.cache
def plain_samples() -> tuple[tuple[int, ...], ...]:
    return tuple(out.token_ids for out in llm_of(None).generate(PROMPTS[0], n=4, **SAMPLING).samples)


def test_the_first_sample_stands_for_the_prompt() -> None:
    out = llm_of("ngram").generate(PROMPTS[0], n=2, **SAMPLING)
    assert out.token_ids == out.samples[0].token_ids
    assert llm_of("ngram").generate(PROMPTS[0], n=1, **SAMPLING).samples == ()


# --- without a seed -----------------------------------------------------------------------------------------------

UNSEEDED: Final = {name: value for name, value in SAMPLING.items() if name != "seed"}


def run(seed: int | None, prompts: tuple[str, ...] = PROMPTS, **options: Any) -> list[tuple[int, ...]]:
    llm = llm_of("model", "fixed:3", seed=seed, **options)
    return [out.token_ids for out in llm.generate(list(prompts), **UNSEEDED)]


def test_the_seed_of_the_engine_makes_runs_reproducible() -> None:
    assert run(seed=3) == run(seed=3)
    assert run(seed=3) != run(seed=4)


def test_without_any_seed_every_engine_is_another() -> None:
    llms = [llm_of("ngram"), llm_of("ngram")]
    seeds = [out.seed for llm in llms for out in llm.generate(list(PROMPTS), **(UNSEEDED | {"max_new_tokens": 1}))]
    assert len(set(seeds)) == 2 * len(PROMPTS)


def test_requests_without_a_seed_draw_one_each() -> None:
    llm = llm_of("model", "fixed:3", seed=3)
    first, second = llm.generate([PROMPTS[0]] * 2, **UNSEEDED)
    assert first.seed != second.seed
    assert first.token_ids != second.token_ids
    samples = llm.generate(PROMPTS[0], n=3, **UNSEEDED).samples
    assert len({out.token_ids for out in samples}) == 3


@pytest.mark.parametrize("neighbour", ["", "a", "another one", "x" * 300])
def test_what_a_neighbour_is_changes_nothing(neighbour: str) -> None:
    """Also one that is refused: it takes its seed like the others."""
    around = run(3, (PROMPTS[0], neighbour, PROMPTS[2]))
    reference = run(3, (PROMPTS[0], PROMPTS[1], PROMPTS[2]))
    assert around[0] == reference[0]
    assert around[2] == reference[2]


def test_requests_with_a_seed_do_not_move_those_without() -> None:
    llm, other = llm_of("ngram", seed=3), llm_of("ngram", seed=3)
    llm.generate(PROMPTS[1], **SAMPLING)
    assert llm.generate(PROMPTS[0], **UNSEEDED).token_ids == other.generate(PROMPTS[0], **UNSEEDED).token_ids


def test_the_seed_of_a_completion_replays_it() -> None:
    llm = llm_of("model", "fixed:3", verifier="rejection")
    out = llm.generate(PROMPTS[0], **UNSEEDED)
    again = llm.generate(PROMPTS[0], **(UNSEEDED | {"seed": out.seed}))
    assert out.token_ids == again.token_ids
