"""A faulty request gives one error with value, limit and remedy; the others of its batch say what they say alone."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import torch

from evodraft import LLM, Completion
from evodraft.errors import (
    ConfigError,
    EvodraftError,
    NumericsError,
    PromptError,
    SamplingError,
    UnknownOptionError,
    UserCodeError,
)
from evodraft.testing.pairs import TinyPair, tiny_pair

CONTEXT: Final = 64
GOOD: Final = ([72, 101, 108, 108], [1, 2, 3, 1, 2, 3, 1], [90] * 20)
MARK: Final = 250  # stands in the one prompt of a batch that goes wrong
MARKED: Final = [5, 6, MARK]
OPTIONS: Final = {"max_new_tokens": 20, "temperature": 0.7, "seed": 11, "ignore_eos": True}


@functools.cache
def pair() -> TinyPair:
    return tiny_pair("qwen3", max_position_embeddings=CONTEXT)


@functools.cache
def llm_of(drafter: str | None = "model") -> LLM:
    """Faults are put into modules, so these are called."""
    models = pair()
    spec = {"name": "model", "model": (models.draft, models.tokenizer)} if drafter == "model" else drafter
    options = {"controller": "fixed:3", "max_batch": 4, "runtime": "transformers"}
    return LLM.from_pretrained((models.target, models.tokenizer), drafter=spec, **options)


@functools.cache
def alone() -> tuple[tuple[int, ...], ...]:
    return tuple(llm_of(None).generate(prompt_token_ids=[ids], **OPTIONS)[0].token_ids for ids in GOOD)


def beside_good_ones(faulty: list[int], drafter: str | None = "model", **options: Any) -> Completion:
    """What comes back for a prompt between good ones, which must be unaffected."""
    llm = llm_of(drafter)
    first, out, second, third = llm.generate(
        prompt_token_ids=[GOOD[0], faulty, GOOD[1], GOOD[2]], **(OPTIONS | options)
    )
    assert (first.token_ids, second.token_ids, third.token_ids) == alone()
    assert all(good.error is None and good.finish_reason == "length" for good in (first, second, third))
    assert out.finish_reason == "error"
    assert not llm.engine.has_work
    with pytest.raises(EvodraftError) as raised:
        out.raise_for_error()
    assert raised.value is out.error
    return out


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        ([], PromptError, r"the prompt has 0 tokens and at least 1 is needed; start it with"),
        ([1, 264], PromptError, r"token id 264 is outside the vocabulary 0 \.\. 263; .*another model's tokenizer"),
        ([-1, 1], PromptError, r"token id -1 is outside the vocabulary 0 \.\. 263"),
        ([1, 2**70], PromptError, rf"token id {2**70} is outside the vocabulary 0 \.\. 263"),
        ([1] * 64, PromptError, r"the prompt has 64 tokens, but sequences are limited to 64; shorten"),
        ([1] * 500, PromptError, r"the prompt has 500 tokens, but sequences are limited to 64; shorten"),
        (
            [1] * 50,
            SamplingError,
            r"max_new_tokens=20 after a prompt of 50 tokens exceeds .* 64 .*max_new_tokens <= 14",
        ),
    ],
)
def test_faulty_prompts(prompt: list[int], kind: type[EvodraftError], message: str) -> None:
    out = beside_good_ones(prompt)
    assert type(out.error) is kind
    assert re.search(message, str(out.error))
    assert (out.token_ids, out.text, out.stats.num_tokens) == ((), "", 0)
    assert list(out.prompt_token_ids) == prompt


def test_a_single_faulty_text_raises_and_one_of_a_list_does_not() -> None:
    llm = llm_of()
    with pytest.raises(PromptError, match="0 tokens"):
        llm.generate("", max_new_tokens=4)
    with pytest.raises(PromptError, match="100 tokens, but sequences are limited to 64"):
        llm.generate("x" * 100, max_new_tokens=4)
    good, empty = llm.generate(["abc", ""], max_new_tokens=4)
    assert good.error is None
    assert isinstance(empty.error, PromptError)
    assert llm.generate([], max_new_tokens=4) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either a prompt or prompt_token_ids, and not both"),
        ({"prompt": "a", "prompt_token_ids": [[1]]}, "give either a prompt or prompt_token_ids, and not both"),
        ({"prompt": 7}, r"the prompt \(int\) is not a string; pass token ids as prompt_token_ids"),
        ({"prompt": ["a", 7]}, r"the prompt \(int\) is not a string"),
        ({"prompt": b"a"}, r"the prompt \(int\) is not a string"),
        ({"prompt": "half \ud83d"}, "half of a surrogate pair at character 5.*errors='replace'"),
        ({"prompt_token_ids": [1, 2]}, r"\(int\) is not a list of token ids; .* a list of such lists for generate"),
        ({"prompt_token_ids": [[1, 2.5]]}, r"\(list of float and int\) is not a list of token ids"),
        ({"prompt_token_ids": ["ab"]}, r"\(str\) is not a list of token ids"),
        ({"prompt_token_ids": 7}, r"\(int\) is not a list of token ids"),
        ({"prompt_token_ids": torch.tensor([1, 2])}, r"\(Tensor\) is not a list of token ids"),
        ({"prompt_token_ids": torch.tensor([[[1, 2]]])}, "is not a list of token ids"),
    ],
)
def test_what_is_no_prompt_at_all(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        llm_of().generate(**arguments)
    assert not llm_of().engine.has_work


@pytest.mark.parametrize("arguments", [{"prompt": ["a", "b"]}, {"prompt": ["a"]}, {"prompt_token_ids": [[1], [2]]}])
def test_a_stream_takes_one_prompt(arguments: dict[str, Any]) -> None:
    with pytest.raises(
        PromptError, match="is not one prompt; a stream completes one string|is not a list of token ids"
    ):
        llm_of().stream(**arguments)
    assert not llm_of().engine.has_work


def test_parameters_of_another_kind() -> None:
    for call in (llm_of().generate, llm_of().stream):
        with pytest.raises(SamplingError, match=r"dict of builtins is not evodraft.SamplingParams; make one of it"):
            call("abc", {"top_k": 3})


def test_tensors_of_token_ids_are_fine() -> None:
    outs = llm_of().generate(prompt_token_ids=torch.tensor([GOOD[0]]), **OPTIONS)
    assert outs[0].token_ids == alone()[0]


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, r"max_new_tokens=-1 is outside 1 \.\."),
        ({"max_new_tokens": 0}, r"max_new_tokens=0 is outside 1 \.\."),
        ({"max_new_tokens": 2**40}, rf"max_new_tokens={2**40} is outside 1 \.\. 2\.1\d+e\+09"),
        ({"max_new_tokens": 1.5}, r"max_new_tokens=1\.5 is not a whole number"),
        ({"max_tokens": -3}, r"max_new_tokens=-3 is outside 1"),
        ({"temperature": math.nan}, r"temperature=nan is not a finite number; give one from 0 to 100"),
        ({"temperature": math.inf}, r"temperature=inf is not a finite number; give one from 0 to 100"),
        ({"temperature": -0.5}, r"temperature=-0\.5 is outside 0 \.\. 100"),
        ({"top_p": 0.0}, r"top_p=0\.0 is outside .* 1; choose"),
        ({"top_p": 1.5}, r"top_p=1\.5 is outside .* 1; choose"),
        ({"top_k": -1}, r"top_k=-1 is outside 0"),
        ({"min_p": 1.1}, r"min_p=1\.1 is outside 0 \.\. 1"),
        ({"n": 0}, r"n=0 is outside 1 \.\. 1024"),
        ({"seed": -1}, r"seed=-1 is outside 0"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0\.0 is outside 0\.001 \.\. 1000"),
        ({"stop": [3]}, r"stop=3 must be a non-empty string; leave it out"),
        ({"stop": 3}, r"stop=3 is not a collection"),
        ({"stop": [""]}, r"stop='' must be a non-empty string"),
        ({"logit_bias": {-4: 1.0}}, r"logit_bias key -4 is not a token id"),
        ({"logit_bias": {4: math.nan}}, r"logit_bias\[4\]=nan is not usable"),
    ],
)
def test_faulty_parameters_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    llm = llm_of()
    for prompt in ("abc", ["abc", "def"]):
        with pytest.raises(SamplingError, match=message):
            llm.generate(prompt, **options)
    with pytest.raises(SamplingError, match=message):
        llm.stream("abc", **options)
    assert not llm.engine.has_work


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("temprature", "temperature"), ("max_new_token", "max_new_tokens"), ("topk", "top_k"), ("stops", "stop")],
)
def test_unknown_sampling_options_name_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(
        UnknownOptionError, match=rf"unknown sampling option '{name}'; did you mean '{nearest}'\? Known"
    ):
        llm_of().generate("abc", **{name: 1})


def test_limits_that_depend_on_the_model() -> None:
    with pytest.raises(
        SamplingError, match=r"max_new_tokens=1000000 after a prompt of 3 .* limit of 64 .*<= 61 or raise"
    ):
        llm_of().generate("abc", max_new_tokens=10**6)
    with pytest.raises(SamplingError, match=r"logit_bias key 264 is outside the vocabulary 0 \.\. 263"):
        llm_of().generate("abc", max_new_tokens=4, logit_bias={264: 1.0})


def test_text_needs_a_tokenizer() -> None:
    llm = LLM.from_pretrained((pair().target, None), drafter="ngram")
    with pytest.raises(ConfigError, match=r"a text prompt needs a tokenizer; build the LLM with \(model, tokenizer\)"):
        llm.generate("abc")
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        llm.generate(prompt_token_ids=[[1]], stop=["a"])
    with pytest.raises(ConfigError, match="this tokenizer has no chat template; use generate"):
        llm_of().chat([{"role": "user", "content": "hello"}])


def test_a_closed_llm_says_so() -> None:
    llm = LLM.from_pretrained((pair().target, pair().tokenizer))
    with llm:
        pass
    for call in (lambda: llm.generate("a"), lambda: llm.generate(["a"]), lambda: llm.stream("a"), lambda: llm.metrics):
        with pytest.raises(ConfigError, match=r"this LLM is closed; build a new one with LLM\.from_pretrained"):
            call()


# --- numbers ------------------------------------------------------------------------------------------------------


@contextmanager
def spoiled(module: torch.nn.Module, value: float) -> Iterator[None]:
    """Wherever the last real token of a row is MARK, the logits after it are `value`."""

    def hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        is_marked = kwargs["input_ids"] == MARK
        if output.logits.shape[1] == is_marked.shape[1]:
            output.logits = output.logits.masked_fill(is_marked[..., None], value)
        return output

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
def test_unusable_logits_of_one_row(drafter: str | None, value: float) -> None:
    with spoiled(pair().target, value):
        out = beside_good_ones(MARKED, drafter)
    assert isinstance(out.error, NumericsError)
    assert re.search(r"NaN, \+inf or no possible token at position 3 of request .*dtype='float32'", str(out.error))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_unusable_logits_of_the_draft_model_cost_only_speed(value: float) -> None:
    prompts = [GOOD[0], MARKED, GOOD[1]]
    reference = llm_of(None).generate(prompt_token_ids=prompts, **OPTIONS)
    with spoiled(pair().draft, value):
        outs = llm_of("model").generate(prompt_token_ids=prompts, **OPTIONS)
    assert [out.token_ids for out in outs] == [out.token_ids for out in reference]
    assert all(out.stats.num_draft_tokens > 0 for out in outs)


# --- the caller's own code ----------------------------------------------------------------------------------------


def raising(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("one by zero")


def wrong_shape(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores[0]


def nothing(input_ids: torch.Tensor, scores: torch.Tensor) -> None:
    return None


def not_a_number(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores * math.nan


def bans_all(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores - math.inf


@pytest.mark.parametrize("num_before", [0, 4])
@pytest.mark.parametrize("drafter", [None, "model"])
@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (raising, r"logits processor limited raised ZeroDivisionError\('one by zero'\); fix it or leave it out"),
        (wrong_shape, r"logits processor limited returned \(264,\); it must return scores \(1, 264\)"),
        (nothing, r"logits processor limited returned NoneType; it must return scores \(1, 264\)"),
        (not_a_number, r"left no usable token at position {position} \(largest score nan\); allow at least one id"),
        (bans_all, r"left no usable token at position {position} \(largest score -inf\); allow at least one id"),
    ],
)
def test_faulty_processors(processor: Callable[..., Any], message: str, drafter: str | None, num_before: int) -> None:
    """It fails for one prompt, from a token on; the tokens before stay."""

    def limited(input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        is_meant = input_ids[0, 2] == MARK and input_ids.shape[1] >= len(MARKED) + num_before
        return processor(input_ids, scores) if is_meant else scores

    out = beside_good_ones(MARKED, drafter, logits_processor=[limited])
    assert isinstance(out.error, UserCodeError)
    assert re.search(message.format(position=len(MARKED) + num_before), str(out.error))
    assert len(out.token_ids) <= num_before
    assert len(out.token_ids) == num_before or drafter is not None, "plain decoding keeps what was committed"


def no_answer(input_ids: torch.Tensor, scores: None) -> None:
    return None


@pytest.mark.parametrize("drafter", [None, "model"])
@pytest.mark.parametrize(
    ("criterion", "message"),
    [(raising, r"stopping criterion limited raised ZeroDivisionError"), (no_answer, r"stopping criterion limited")],
)
def test_faulty_criteria(criterion: Callable[..., Any], message: str, drafter: str | None) -> None:
    def limited(input_ids: torch.Tensor, scores: None) -> Any:
        return criterion(input_ids, scores) if input_ids[0, 2] == MARK and input_ids.shape[1] == 7 else False

    out = beside_good_ones(MARKED, drafter, stopping_criteria=[limited])
    assert isinstance(out.error, UserCodeError)
    assert re.search(message, str(out.error))
    assert len(out.token_ids) == 4


def test_an_error_of_the_tree_in_foreign_code_stays_what_it_is() -> None:
    def refuse(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise SamplingError("not with me")

    with pytest.raises(SamplingError, match="not with me"):
        llm_of().generate("abc", max_new_tokens=4, logits_processor=[refuse])
    with pytest.raises(SamplingError, match="not with me"):
        llm_of().generate("abc", max_new_tokens=4, stopping_criteria=[refuse])
