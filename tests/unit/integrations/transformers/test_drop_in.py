"""What the callable makes of `speculation=`, and what it leaves behind when a call cannot start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evodraft import LLM, AsyncLLM
from evodraft.errors import ConfigError, PromptError
from evodraft.integrations.transformers import generate
from evodraft.testing.tiny import tiny_model

PROMPTS = torch.tensor([[1, 2, 3, 1, 2], [4, 5, 6, 4, 5]])


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", vocab_size=32)


@pytest.fixture(scope="module")
def llm(model: Any) -> LLM:
    return LLM.from_pretrained((model, None), drafter="ngram")


def drafted(model: Any, prompts: torch.Tensor = PROMPTS, **options: Any) -> Any:
    return model.generate(prompts, **{"max_new_tokens": 8, "custom_generate": generate, **options})


def test_an_llm_and_a_view_of_it(model: Any, llm: LLM) -> None:
    expected = model.generate(PROMPTS, max_new_tokens=8)
    assert torch.equal(drafted(model, speculation=llm), expected)
    assert torch.equal(drafted(model, speculation=llm.with_options()), expected)


@pytest.mark.parametrize(("given", "shown"), [({}, "missing"), ({"speculation": "demo"}, "of type str")])
def test_anything_else_is_refused(model: Any, given: dict[str, Any], shown: str) -> None:
    with pytest.raises(ConfigError, match=rf"speculation= is {shown} and must be an LLM; build one with"):
        drafted(model, **given)


def test_an_async_llm_is_refused(model: Any) -> None:
    own = LLM.from_pretrained((model, None), drafter=None)
    with pytest.raises(ConfigError, match="speculation= is of type AsyncLLM"):
        drafted(model, speculation=AsyncLLM(own))


def test_a_closed_llm_is_refused(model: Any) -> None:
    own = LLM.from_pretrained((model, None), drafter=None)
    own.close()
    with pytest.raises(ConfigError, match="this LLM is closed"):
        drafted(model, speculation=own)


def test_one_faulty_row_ends_the_call(model: Any, llm: LLM) -> None:
    """transformers answers all rows or none; nothing is left running."""
    with pytest.raises(PromptError, match="token id 32 is outside"):
        drafted(model, torch.tensor([[1, 2], [3, 32]]), speculation=llm)
    assert not llm.engine.has_work


def test_rows_in_line_are_taken_out_if_a_later_one_cannot_be_submitted(model: Any) -> None:
    own = LLM.from_pretrained((model, None), drafter="ngram")
    submitted: list[Any] = []

    class SecondRowError(Exception):
        pass

    def submit(**options: Any) -> Any:
        if submitted:
            raise SecondRowError
        submitted.append(LLM.submit(own, **options))
        return submitted[0]

    own.submit = submit  # type: ignore[method-assign]
    with pytest.raises(SecondRowError):
        drafted(model, speculation=own)
    assert not own.engine.has_work


def test_stop_strings_need_a_tokenizer(model: Any, llm: LLM) -> None:
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        drafted(model, PROMPTS[:1], speculation=llm.with_options(stop=["a"]))
