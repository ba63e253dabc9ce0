"""Greedy tokens are those of `model.generate(do_sample=False)`, whatever drafts, in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from transformers import LogitsProcessorList

from evodraft import LLM, Completion
from evodraft.testing.pairs import TinyPair, noisy_copy, tiny_pair

FAMILIES: Final = ("llama", "qwen3", "gpt2", "gemma", "mistral")
MORE_FAMILIES: Final = ("qwen2", "gemma2", "gemma3", "phi3", "olmo2", "gpt_neox", "mixtral")
PROMPTS: Final = ("Hello world", "ab", "The quick brown fox jumps", "x" * 30, "1 2 3 1 2 3 1 2", "Zoë", "q", "\n\n12")
PRINTABLE: Final = "".join(map(chr, range(33, 127)))
NUM_TOKENS: Final = 20


@functools.cache
def pair(family: str) -> TinyPair:
    return tiny_pair(family)


def llm_of(models: TinyPair, drafter: str | None, controller: str = "fixed:3", **options: Any) -> LLM:
    spec = {"name": "model", "model": (models.draft, models.tokenizer)} if drafter == "model" else drafter
    return LLM.from_pretrained((models.target, models.tokenizer), drafter=spec, controller=controller, **options)


def transformers_tokens(models: TinyPair, prompt: str, **options: Any) -> tuple[int, ...]:
    ids = torch.tensor([models.tokenizer(prompt)["input_ids"]])
    options = {"max_new_tokens": NUM_TOKENS, "do_sample": False, "pad_token_id": 0, **options}
    new: list[int] = models.target.generate(ids, **options)[0, ids.shape[1] :].tolist()
    return tuple(new)


@functools.cache
def expected(family: str) -> tuple[tuple[int, ...], ...]:
    return tuple(transformers_tokens(pair(family), prompt) for prompt in PROMPTS)


def check_equal(outs: list[Completion], family: str) -> None:
    assert tuple(out.token_ids for out in outs) == expected(family)
    assert all(out.exact and out.finish_reason == "length" for out in outs)


@pytest.mark.parametrize("verifier", ["rejection", "coupled", "auto"])
@pytest.mark.parametrize("controller", ["fixed:3", "confidence"])
@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
@pytest.mark.parametrize("family", FAMILIES)
def test_alone_and_in_a_ragged_batch(family: str, drafter: str | None, controller: str, verifier: str) -> None:
    llm = llm_of(pair(family), drafter, controller, verifier=verifier)
    outs = llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS)
    check_equal(outs, family)
    alone = llm.generate(PROMPTS[0], max_new_tokens=NUM_TOKENS)
    assert alone.token_ids == expected(family)[0]
    num_accepted = sum(out.stats.num_accepted_tokens for out in outs)
    num_rejected = sum(out.stats.num_draft_tokens for out in outs) - num_accepted
    assert (num_accepted > 0 and num_rejected > 0) == (drafter is not None)


@pytest.mark.parametrize("drafter", ["ngram", "model"])
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_more_families(family: str, drafter: str) -> None:
    """Three slots for eight prompts: rows come and go while others run."""
    llm = llm_of(pair(family), drafter, "confidence", max_batch=3)
    check_equal(llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS), family)


def test_the_texts_are_varied() -> None:
    """A model that says one token again and again would prove nothing."""
    for family in (*FAMILIES, *MORE_FAMILIES):
        assert sum(len(set(token_ids)) for token_ids in expected(family)) > 5 * len(PROMPTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_and_speculative_requests_share_a_runtime(family: str) -> None:
    llm = llm_of(pair(family), "model")
    plain = llm.generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, speculative=False)
    check_equal(plain, family)
    assert all(out.stats.num_rounds == 0 and out.stats.num_target_passes == NUM_TOKENS for out in plain)


# --- processors ---------------------------------------------------------------------------------------------------


class Only:
    """Bans every token that `allowed` does not hold, and leans towards tokens not seen yet, position by position."""

    def __init__(self, models: TinyPair, allowed: str) -> None:
        self.banned = torch.ones(models.target.config.vocab_size, dtype=torch.bool)
        self.banned[models.tokenizer(allowed)["input_ids"]] = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.masked_fill(self.banned, -torch.inf)
        return scores.scatter_add(-1, input_ids, torch.full_like(input_ids, -1, dtype=scores.dtype))


def _bias(models: TinyPair) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = expected("llama")[0][:2]
    bias = {first: -100.0, second: 2.5, 99: 4.0}
    return {"logit_bias": bias}, {"sequence_bias": {(token_id,): value for token_id, value in bias.items()}}


def _penalty(models: TinyPair) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}


def _own(models: TinyPair) -> tuple[dict[str, Any], dict[str, Any]]:
    processors = [Only(models, PRINTABLE)]
    return {"logits_processor": processors}, {"logits_processor": LogitsProcessorList(processors)}


def _everything(models: TinyPair) -> tuple[dict[str, Any], dict[str, Any]]:
    made = [options(models) for options in (_bias, _penalty, _own)]
    ours, theirs = ({}, {})
    for one, other in made:
        ours |= one
        theirs |= other
    return ours, theirs


@pytest.mark.parametrize("options", [_bias, _penalty, _own, _everything])
@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_processors(family: str, drafter: str | None, options: Callable[[TinyPair], Any]) -> None:
    models = pair(family)
    ours, theirs = options(models)
    outs = llm_of(models, drafter).generate(list(PROMPTS), max_new_tokens=NUM_TOKENS, ignore_eos=True, **ours)
    reference = [transformers_tokens(models, prompt, **theirs) for prompt in PROMPTS]
    assert [out.token_ids for out in outs] == reference
    assert reference != list(expected(family)), "the processors change nothing here"


class Counting:
    """A processor with state: the tenth call bans what the model would say."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(input_ids[0].tolist()))
        if len(self.calls) % 10 == 0:
            return scores.scatter(-1, scores.argmax(-1, keepdim=True), -torch.inf)
        return scores


@pytest.mark.parametrize("drafter", ["ngram", "model"])
def test_a_stateful_processor_sees_the_calls_of_plain_decoding(drafter: str) -> None:
    models, ours, theirs = pair("llama"), Counting(), Counting()
    out = llm_of(models, drafter).generate(PROMPTS[0], max_new_tokens=NUM_TOKENS, logits_processor=[ours])
    reference = transformers_tokens(models, PROMPTS[0], logits_processor=LogitsProcessorList([theirs]))
    assert out.token_ids == reference
    assert ours.calls == theirs.calls
    assert out.token_ids != expected("llama")[0]


# --- where an output ends -----------------------------------------------------------------------------------------


def oracle_of(family: str) -> TinyPair:
    """The draft is the target: every token is accepted, so every end lies inside a block."""
    models = pair(family)
    return models._replace(draft=noisy_copy(models.target, noise=0.0))


def first_seen(token_ids: tuple[int, ...], index: int) -> int:
    """A token whose first occurrence is at `index` or soon after."""
    return next(i for i in token_ids[index:] if token_ids.index(i) >= index)


@pytest.mark.parametrize("family", FAMILIES)
def test_eos_inside_an_accepted_block(family: str) -> None:
    models = oracle_of(family)
    eos = first_seen(expected(family)[0], 3)
    reference = transformers_tokens(models, PROMPTS[0], eos_token_id=eos)
    out = llm_of(models, "model", "fixed:9").generate(PROMPTS[0], max_new_tokens=NUM_TOKENS, stop_token_ids=[eos])
    assert reference[-1] == eos
    assert 3 < len(reference) < NUM_TOKENS
    assert out.token_ids == reference[:-1]
    assert out.finish_reason == "stop"
    assert out.stats.num_tokens == len(reference), "committed, EOS included; nothing behind it"
    assert out.text == models.tokenizer.decode(reference[:-1])


@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
@pytest.mark.parametrize("family", FAMILIES)
def test_eos_of_the_model_in_a_batch(family: str, drafter: str | None) -> None:
    """The id comes from the model's generation config, as in transformers."""
    eos = first_seen(expected(family)[0], 5)
    models = tiny_pair(family)
    models.target.generation_config.eos_token_id = eos
    outs = llm_of(models, drafter).generate(list(PROMPTS), max_new_tokens=NUM_TOKENS)
    cut = [token_ids[: token_ids.index(eos)] if eos in token_ids else token_ids for token_ids in expected(family)]
    assert [out.token_ids for out in outs] == cut
    assert [out.finish_reason for out in outs] == ["stop" if eos in ids else "length" for ids in expected(family)]


@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
@pytest.mark.parametrize("num_least", [1, 4, 5, 9, 14])
def test_min_new_tokens(num_least: int, drafter: str | None) -> None:
    models = oracle_of("qwen3")
    eos = expected("qwen3")[0][4]
    reference = transformers_tokens(models, PROMPTS[0], eos_token_id=eos, min_new_tokens=num_least)
    out = llm_of(models, drafter, "fixed:6").generate(
        PROMPTS[0], max_new_tokens=NUM_TOKENS, min_new_tokens=num_least, stop_token_ids=[eos]
    )
    assert out.token_ids == (reference[:-1] if reference[-1] == eos else reference)
    assert out.stats.num_tokens >= num_least


@pytest.mark.parametrize("num_most", [1, 2, 6, 7, 8, 13])
def test_max_new_tokens_inside_an_accepted_block(num_most: int) -> None:
    out = llm_of(oracle_of("llama"), "model", "fixed:6").generate(PROMPTS[0], max_new_tokens=num_most)
    assert out.token_ids == expected("llama")[0][:num_most]
    assert out.stats.num_tokens == num_most
    assert out.stats.num_target_passes == -(-num_most // 7), "six accepted and one more, every time"


@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
def test_the_context_is_used_to_the_last_token(drafter: str | None) -> None:
    models = tiny_pair("gpt2", max_position_embeddings=len(PROMPTS[0]) + NUM_TOKENS)
    out = llm_of(models, drafter, "fixed:6").generate(PROMPTS[0], max_new_tokens=NUM_TOKENS)
    assert out.token_ids == transformers_tokens(models, PROMPTS[0])
    assert len(out.prompt_token_ids) + len(out.token_ids) == models.target.config.max_position_embeddings


@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_stop_strings(family: str, length: int, drafter: str | None) -> None:
    """The tokens are those of transformers' `stop_strings`; the text ends before the stop string."""
    models = oracle_of(family)
    processors = [Only(models, PRINTABLE)]
    text = models.tokenizer.decode(
        transformers_tokens(models, PROMPTS[0], logits_processor=LogitsProcessorList(processors))
    )
    stops = [text[start : start + length] for start in (11, 5)]
    reference = transformers_tokens(
        models,
        PROMPTS[0],
        logits_processor=LogitsProcessorList(processors),
        stop_strings=stops,
        tokenizer=models.tokenizer,
    )
    out = llm_of(models, drafter, "fixed:6").generate(
        PROMPTS[0], max_new_tokens=NUM_TOKENS, stop=stops, logits_processor=processors
    )
    ends = [text.index(stop) for stop in stops]
    assert out.token_ids == reference
    assert out.finish_reason == "stop"
    assert len(reference) < NUM_TOKENS
    assert out.text == text[: min(ends)]
    assert len(out.token_ids) == min(ends) + length
