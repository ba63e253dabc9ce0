"""AsyncLLM: the same tokens as LLM, shared by coroutines, with faults and cancellations kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from evodraft import LLM, AsyncLLM, ConfigError, PromptError, SamplingError, UserCodeError
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

PROMPTS = ["one", "a longer prompt", "three"]
SAMPLING = {"max_new_tokens": 12, "temperature": 0.8, "seed": 5}


def _llm(**options: Any) -> LLM:
    models = (tiny_model("llama", vocab_size=257, seed=0), byte_tokenizer())
    return LLM.from_pretrained(models, drafter="ngram", controller="fixed:3", **options)


def _run(body: Callable[[AsyncLLM], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncLLM(_llm(**options)) as llm:
            return await body(llm)

    return asyncio.run(main())


def test_coroutines_share_a_batch_and_get_what_they_would_get_alone() -> None:
    expected = [_llm().generate(prompt, **SAMPLING).token_ids for prompt in PROMPTS]

    async def body(llm: AsyncLLM) -> Any:
        return await asyncio.gather(*(llm.generate(prompt, **SAMPLING) for prompt in PROMPTS))

    assert [out.token_ids for out in _run(body)] == expected


def test_stream_gives_the_text_in_pieces() -> None:
    async def body(llm: AsyncLLM) -> Any:
        return [piece async for piece in llm.stream("one", **SAMPLING)]

    pieces = _run(body)
    assert "".join(piece.text for piece in pieces) == pieces[-1].completion.text
    assert len(pieces) > 1
    assert pieces[-1].completion.token_ids == _llm().generate("one", **SAMPLING).token_ids


def test_lists_keep_faults_apart_and_single_prompts_raise() -> None:
    async def body(llm: AsyncLLM) -> Any:
        good, bad = await llm.generate(["one", ""], **SAMPLING)
        with pytest.raises(PromptError, match="at least 1 is needed"):
            await llm.generate("", **SAMPLING)
        with pytest.raises(SamplingError, match="max_new_tokens=-1"):
            await llm.generate("one", max_new_tokens=-1)
        with pytest.raises(SamplingError, match="n=2 samples cannot be streamed"):
            [piece async for piece in llm.stream("one", n=2)]
        return good, bad

    good, bad = _run(body)
    assert good.error is None
    assert isinstance(bad.error, PromptError)


def test_a_failing_request_does_not_disturb_its_neighbour() -> None:
    def fails(token_ids: Any, scores: Any) -> bool:
        raise ValueError("mine")

    async def body(llm: AsyncLLM) -> Any:
        async def failing() -> None:
            [piece async for piece in llm.stream("two", stopping_criteria=[fails], **SAMPLING)]

        return await asyncio.gather(llm.generate("one", **SAMPLING), failing(), return_exceptions=True)

    good, bad = _run(body)
    assert good.token_ids == _llm().generate("one", **SAMPLING).token_ids
    assert isinstance(bad, UserCodeError)


def test_leaving_a_stream_frees_its_slot() -> None:
    async def body(llm: AsyncLLM) -> Any:
        stream = llm.stream("one", max_new_tokens=200, ignore_eos=True)
        async for _ in stream:
            break
        await stream.aclose()
        return await asyncio.wait_for(llm.generate("three", **SAMPLING), timeout=60)

    assert _run(body, max_batch=1).token_ids == _llm().generate("three", **SAMPLING).token_ids


def test_an_engine_fault_reaches_every_caller_and_the_thread_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(llm: AsyncLLM) -> Any:
        engine = llm._llm.engine
        step = type(engine).step
        monkeypatch.setattr(type(engine), "step", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await llm.generate("one", **SAMPLING)
        monkeypatch.setattr(type(engine), "step", step)
        return await llm.generate("one", **SAMPLING)

    assert _run(body).error is None


def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    async def main() -> None:
        llm = AsyncLLM(_llm())
        running = asyncio.create_task(llm.generate("one", max_new_tokens=240, ignore_eos=True))
        await asyncio.sleep(0.05)
        await llm.close()
        await llm.close()
        with pytest.raises(ConfigError, match="closed while this request ran"):
            await running
        with pytest.raises(ConfigError, match="this AsyncLLM is closed"):
            await llm.generate("one")

    asyncio.run(main())


def test_closing_answers_those_who_only_just_asked() -> None:
    async def main() -> list[object]:
        llm = AsyncLLM(_llm())
        running = [asyncio.create_task(llm.generate("one", max_new_tokens=200, ignore_eos=True)) for _ in range(3)]
        await asyncio.sleep(0.05)
        late = [asyncio.create_task(llm.generate("two", max_new_tokens=200, ignore_eos=True)) for _ in range(3)]
        await asyncio.sleep(0)
        await llm.close()
        return await asyncio.wait_for(asyncio.gather(*running, *late, return_exceptions=True), timeout=60)

    assert all(isinstance(answer, ConfigError) for answer in asyncio.run(main()))


def test_chat_goes_through_the_template() -> None:
    async def body(llm: AsyncLLM) -> Any:
        llm._llm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        return await llm.chat([{"role": "user", "content": "one"}], **SAMPLING)

    assert _run(body).token_ids == _llm().generate("one", **SAMPLING).token_ids
