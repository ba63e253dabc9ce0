"""What the checks accept, and the faults they must find."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from evodraft import LLM
from evodraft.bench.checks import Finding, Judge, check_determined, check_drawn, uniformity_p_value
from evodraft.bench.contestants import Ask
from evodraft.errors import BenchError
from evodraft.runtime.hf import HfDecoder
from evodraft.testing.tiny import tiny_model

VOCAB = 40
PROMPT = (3, 1, 4, 1, 5)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_model("llama", vocab_size=VOCAB, seed=2)


@pytest.fixture(scope="module")
def judge(model: torch.nn.Module) -> Judge:
    return Judge(HfDecoder(model, num_slots=1), VOCAB, torch.float32)


def outputs(model: torch.nn.Module, asks: Sequence[Ask], verifier: str, drafter: object = "ngram") -> list[list[int]]:
    llm = LLM.from_pretrained((model, None), drafter=drafter, verifier=verifier)
    return [
        list(
            llm.generate(
                prompt_token_ids=[ask.token_ids],
                max_new_tokens=ask.max_new_tokens,
                temperature=ask.temperature,
                repetition_penalty=ask.repetition_penalty,
                seed=ask.seed,
            )[0].token_ids
        )
        for ask in asks
    ]


def findings(judge: Judge, asks: Sequence[Ask], texts: Sequence[Sequence[int]], rule: str) -> list[Finding]:
    return [judge.find(ask, text, rule) for ask, text in zip(asks, texts, strict=True)]  # type: ignore[arg-type]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_outputs_pass_and_a_wrong_token_does_not(model, judge: Judge, penalty: float) -> None:
    ask = Ask(PROMPT, 30, repetition_penalty=penalty)
    [text] = outputs(model, [ask], "rejection")
    tolerance = judge.tolerance(0.0, "greedy")
    good = check_determined([judge.find(ask, text, "greedy")], tolerance, 1)
    assert good.is_passed
    assert good.worst_deficit_nats is not None
    assert good.worst_deficit_nats <= 1e-4
    wrong = [*text[:20], (text[20] + 1) % VOCAB, *text[21:]]
    assert not check_determined([judge.find(ask, wrong, "greedy")], tolerance, 0).is_passed


def test_a_penalty_that_one_side_forgot_is_found(model, judge: Judge) -> None:
    ask = Ask(PROMPT, 30, repetition_penalty=1.3)
    [text] = outputs(model, [replace(ask, repetition_penalty=1.0)], "rejection")
    found = judge.find(ask, text, "greedy")
    assert not check_determined([found], judge.tolerance(0.0, "greedy"), 0).is_passed


def test_coupled_outputs_pass_and_another_seed_does_not(model, judge: Judge) -> None:
    ask = Ask(PROMPT, 30, temperature=0.7, seed=11)
    [text] = outputs(model, [ask], "coupled")
    tolerance = judge.tolerance(0.7, "coupled")
    assert check_determined([judge.find(ask, text, "coupled")], tolerance, 1).is_passed
    other = judge.find(replace(ask, seed=12), text, "coupled")
    assert not check_determined([other], tolerance, 0).is_passed


def many(temperature: float, count: int = 60) -> list[Ask]:
    return [Ask((*PROMPT, number % VOCAB), 40, temperature=temperature, seed=number) for number in range(count)]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_samples_of_the_right_law_pass(model, judge: Judge, temperature: float) -> None:
    asks = many(temperature)
    found = check_drawn(findings(judge, asks, outputs(model, asks, "rejection"), "sampled"))
    assert found.is_passed
    assert found.p_value is not None
    assert found.p_value > 0.001


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_samples_of_another_temperature_are_refuted(model, judge: Judge, temperature: float) -> None:
    texts = outputs(model, many(temperature), "rejection")
    found = check_drawn(findings(judge, many(0.7), texts, "sampled"))
    assert not found.is_passed


def test_draft_tokens_that_are_always_taken_are_refuted(judge: Judge) -> None:
    """What a verifier that accepts everything would say: samples of another model."""
    texts = outputs(tiny_model("llama", vocab_size=VOCAB, seed=3), many(0.7), "rejection")
    assert not check_drawn(findings(judge, many(0.7), texts, "sampled")).is_passed


def test_a_p_value_is_uniform_where_nothing_is_wrong() -> None:
    draw = random.Random(0)
    low = sum(uniformity_p_value([draw.random() for _ in range(500)]) < 0.05 for _ in range(400))
    assert 8 <= low <= 35  # 20 expected


def test_a_method_that_claims_nothing_is_not_judged_but_shown() -> None:
    check = check_determined([Finding(deficits=(5.0,))], 0.1, 0, is_exact=False)
    assert (check.kind, check.is_passed, check.worst_deficit_nats) == ("none", True, 5.0)
    assert check_drawn([Finding(places=(0.01,) * 500)], is_exact=False).is_passed


def test_the_target_is_as_before_and_too_long_texts_are_refused(judge: Judge) -> None:
    assert judge.decoder.length(0) == 0
    with pytest.raises(BenchError, match="tokens do not fit the target's 256"):
        judge.find(Ask(PROMPT, 300), [1] * 300, "greedy")
    assert judge.decoder.length(0) == 0
    assert judge.find(Ask(PROMPT, 3), [], "greedy") == Finding()
    assert len(judge.find(Ask((7,), 3), [1, 2], "greedy").deficits) == 2  # a prompt of one token


def test_one_foreign_token_among_a_thousand_is_refuted() -> None:
    """The chi-square test alone does not see it."""
    draw = random.Random(0)
    places = [draw.random() for _ in range(1000)]
    good = Finding(places=tuple(places), tails=tuple(1 - place for place in places))
    assert check_drawn([good]).is_passed
    foreign = Finding(places=(1.0,), tails=(1e-9,))
    assert uniformity_p_value([*places, 1.0]) > 0.001
    assert not check_drawn([good, foreign]).is_passed


def test_tokens_that_are_equally_likely_share_one_place() -> None:
    """bfloat16 makes many logits equal; places are uniform all the same."""

    class Flat:
        max_length = 10_000

        def forward(self, ids: torch.Tensor, *arguments: object, want_logits: bool = True) -> object:
            return SimpleNamespace(logits=torch.zeros(*ids.shape, VOCAB))

        def release(self, slot: int) -> None:
            """Nothing is held."""

    draw = random.Random(1)
    flat = Judge(Flat(), VOCAB, torch.float32)  # type: ignore[arg-type]  # what is used of a decoder
    found = flat.find(Ask((1,), 4000, 1.0, seed=3), [draw.randrange(VOCAB) for _ in range(4000)], "sampled")
    assert [place + tail for place, tail in zip(found.places, found.tails, strict=True)] == pytest.approx([1.0] * 4000)
    assert check_drawn([found]).is_passed
