"""A view fills in options; the LLM stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from evodraft import LLM
from evodraft.errors import ConfigError, SamplingError, UnknownOptionError
from evodraft.llm_view import LLMView
from evodraft.params import SamplingParams
from evodraft.testing.pairs import tiny_pair


@pytest.fixture(scope="module")
def llm() -> LLM:
    pair = tiny_pair()
    return LLM.from_pretrained((pair.target, pair.tokenizer), assistant_model=pair.draft)


class Silent:
    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


def test_generate_and_stream_take_the_options(llm: LLM) -> None:
    view = llm.with_options(max_new_tokens=5, ignore_eos=True, speculative=False)
    out = view.generate("hello")
    assert (len(out.token_ids), out.stats.num_draft_tokens) == (5, 0)
    assert [*view.stream("hello")][-1].completion.token_ids == out.token_ids
    assert len(llm.generate("hello", max_new_tokens=7, ignore_eos=True).token_ids) == 7


def test_chat_takes_the_options() -> None:
    class Talks:
        def chat(self, *args: Any, **options: Any) -> tuple[Any, Any]:
            return args, options

    assert LLMView.of(Talks(), {"max_new_tokens": 3}, None).chat("hello", seed=1) == (
        ("hello",),
        {"max_new_tokens": 3, "seed": 1},
    )


def test_the_call_holds_over_the_view_and_the_view_over_params(llm: LLM) -> None:
    view = llm.with_options(max_new_tokens=5, ignore_eos=True)
    assert len(view.generate("hello", max_new_tokens=2).token_ids) == 2
    assert len(view.generate("hello", SamplingParams(max_new_tokens=9)).token_ids) == 5


def test_wrong_options_are_found_at_once(llm: LLM) -> None:
    with pytest.raises(UnknownOptionError, match="did you mean 'temperature'"):
        llm.with_options(temprature=0.5)
    with pytest.raises(SamplingError, match="temperature=-1"):
        llm.with_options(temperature=-1)
    with pytest.raises(ConfigError, match=r"streamer='stdout' has no method put and no end; pass a TextStreamer"):
        llm.with_options(streamer="stdout")  # type: ignore[arg-type]


def test_what_the_caller_does_to_its_dict_changes_nothing(llm: LLM) -> None:
    options = {"max_new_tokens": 2}
    view = LLMView.of(llm, options, None)
    options["max_new_tokens"] = 9
    assert view.options == {"max_new_tokens": 2}


@pytest.mark.parametrize("name", ["generate", "stream", "chat"])
def test_a_streamer_is_for_transformers(llm: LLM, name: str) -> None:
    with pytest.raises(ConfigError, match=r"the streamer Silent is fed by transformers' model.generate only"):
        getattr(llm.with_options(streamer=Silent()), name)("hello")
