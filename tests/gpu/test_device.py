"""On an accelerator: the same promises as on a CPU. `pytest -m gpu` runs these where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evodraft import LLM
from evodraft.sampling import HashedStream, RequestKeys, exponential_noise
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

pytestmark = pytest.mark.gpu

PROMPTS = ["one", "a rather longer prompt", "three four"]


def _llm(family: str = "llama", **options: Any) -> LLM:
    target = tiny_model(family, vocab_size=257, seed=0).cuda()
    draft = tiny_model("llama", vocab_size=257, seed=1).cuda()
    options = {"drafter": {"name": "model", "model": draft}, "controller": "fixed:3"} | options
    return LLM.from_pretrained((target, byte_tokenizer()), **options)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma", "mistral"])
def test_greedy_tokens_are_those_of_transformers(family: str) -> None:
    model = tiny_model(family, vocab_size=257, seed=0).cuda()
    ids = byte_tokenizer()(PROMPTS[1])["input_ids"]
    expected = model.generate(torch.tensor([ids]).cuda(), max_new_tokens=24, do_sample=False, eos_token_id=None)
    [out] = _llm(family).generate(prompt_token_ids=[ids], max_new_tokens=24, ignore_eos=True)
    assert list(out.token_ids) == expected[0, len(ids) :].tolist()


@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
def test_seeded_tokens_depend_on_seed_and_target_only(drafter: str | None) -> None:
    options = {} if drafter == "model" else {"drafter": drafter}
    sampling = {"max_new_tokens": 16, "temperature": 0.8, "top_p": 0.9, "seed": 5}
    alone = [_llm().generate(prompt, speculative=False, **sampling).token_ids for prompt in PROMPTS]
    together = _llm(**options).generate(PROMPTS, **sampling)
    assert [out.token_ids for out in together] == alone


def test_processors_work_on_the_device() -> None:
    sampling = {"max_new_tokens": 12, "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2}
    sampling |= {"min_new_tokens": 6, "logit_bias": {65: 2.0}, "logprobs": 2}
    plain = _llm().generate(PROMPTS[0], speculative=False, **sampling)
    assert _llm().generate(PROMPTS[0], **sampling).token_ids == plain.token_ids


def test_noise_is_the_same_everywhere() -> None:
    keys = [RequestKeys(7).coupled(position) for position in range(4)]
    there = exponential_noise(keys, 1000, "cuda").cpu()
    torch.testing.assert_close(there, exponential_noise(keys, 1000, "cpu"), rtol=1e-5, atol=1e-7)
    weights = torch.rand(4, 1000, generator=torch.Generator().manual_seed(0))
    stream = HashedStream()
    assert torch.equal(stream.draw(weights.cuda(), keys).cpu(), stream.draw(weights, keys))
