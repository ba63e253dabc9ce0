"""Streams: the pieces are the whole, nothing is shown too early, and whoever leaves leaves nothing behind."""

from __future__ import annotations

import functools
from typing import Any, Final

import pytest
import torch

from evodraft import LLM, Completion, Piece
from evodraft.errors import ConfigError, PromptError, SamplingError, UserCodeError
from evodraft.testing.pairs import TinyPair, tiny_pair

PROMPT: Final = "Tell me: "
TEXT: Final = "Zoë says 👩‍🚀 and 日本語, STO or STOP, then \U0001f600 it ends"


@functools.cache
def pair() -> TinyPair:
    return tiny_pair("llama")


class Dictation:
    """Bans all tokens but the next of a text, whatever the prompt is; then only the end token is left."""

    def __init__(self, text: str, num_prompt_tokens: int = len(PROMPT)) -> None:
        self.token_ids = [*pair().tokenizer(text)["input_ids"], pair().tokenizer.eos_token_id]
        self.num_prompt_tokens = num_prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token_id = self.token_ids[input_ids.shape[1] - self.num_prompt_tokens]
        return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor([token_id]), 0.0)


def llm_of(drafter: object = "ngram", controller: str = "fixed:4", **options: Any) -> LLM:
    models = pair()
    return LLM.from_pretrained((models.target, models.tokenizer), drafter=drafter, controller=controller, **options)


def model_drafter() -> dict[str, Any]:
    return {"name": "model", "model": (pair().draft, pair().tokenizer)}


def check_whole(pieces: list[Piece], out: Completion) -> None:
    assert "".join(piece.text for piece in pieces) == out.text
    assert tuple(token_id for piece in pieces for token_id in piece.token_ids) == out.token_ids
    assert sum(piece.num_accepted for piece in pieces) <= out.stats.num_accepted_tokens
    assert [piece.completion is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    last = pieces[-1].completion
    assert last is not None
    assert (last.text, last.token_ids, last.finish_reason) == (out.text, out.token_ids, out.finish_reason)


# --- the pieces are the whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [(), ("STOP",), ("日本", "👩"), ("\U0001f600 it",), ("nowhere",)])
@pytest.mark.parametrize("repeats", [1, 3])
def test_multi_byte_text_and_stop_strings(stop: tuple[str, ...], repeats: int) -> None:
    """Repeated text is drafted by prompt lookup."""
    text = TEXT.replace("STOP", "stop") * (repeats - 1) + TEXT
    llm, options = llm_of(), {"max_new_tokens": 240, "stop": stop, "logits_processor": [Dictation(text)]}
    out = llm.generate(PROMPT, **options)
    pieces = list(llm.stream(PROMPT, **options))
    check_whole(pieces, out)
    starts = [text.index(string) for string in stop if string in text]
    assert out.text == (text[: min(starts)] if starts else text)
    assert not any("\ufffd" in piece.text for piece in pieces)
    if repeats > 1 and not starts:
        assert out.stats.num_accepted_tokens > len(TEXT), "blocks that end within characters"


def test_what_may_become_a_stop_string_is_held_back() -> None:
    shown = ""
    for piece in llm_of().stream(PROMPT, max_new_tokens=80, stop=["STOP"], logits_processor=[Dictation(TEXT)]):
        shown += piece.text
        assert "STOP" not in shown
        assert not shown.endswith(("S", "ST", "STO"))
    assert shown == TEXT[: TEXT.index("STOP")]
    assert "STO or" in shown, "what did not become one is shown later"


def test_half_a_character_at_the_end_is_shown_as_what_it_is() -> None:
    options = {"max_new_tokens": 2, "logits_processor": [Dictation("é\U0001f600")]}
    assert llm_of().generate(PROMPT, **options).text == "é"
    options["max_new_tokens"] = 4
    out = llm_of().generate(PROMPT, **options)
    assert out.text == "é\ufffd"
    check_whole(list(llm_of().stream(PROMPT, **options)), out)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("drafter", [None, "ngram", "model"])
def test_streamed_or_not(drafter: str | None, temperature: float) -> None:
    llm = llm_of(model_drafter() if drafter == "model" else drafter)
    for prompt in ("Hello world", "x" * 30, "1 2 3 1 2 3"):
        options = {"max_new_tokens": 40, "temperature": temperature, "seed": 5, "stop": ["e", "\n"]}
        check_whole(list(llm.stream(prompt, **options)), llm.generate(prompt, **options))


def test_accepted_tokens_of_the_pieces_add_up() -> None:
    pieces = list(llm_of(model_drafter()).stream("Hello world", max_new_tokens=30, ignore_eos=True))
    completion = pieces[-1].completion
    assert completion is not None
    assert sum(piece.num_accepted for piece in pieces) == completion.stats.num_accepted_tokens > 0
    assert len(pieces) == completion.stats.num_target_passes


def test_token_ids_without_a_tokenizer() -> None:
    llm = LLM.from_pretrained((pair().target, None), drafter="ngram")
    pieces = list(llm.stream(prompt_token_ids=[1, 2, 3, 1, 2], max_new_tokens=9))
    [out] = llm.generate(prompt_token_ids=[[1, 2, 3, 1, 2]], max_new_tokens=9)
    assert out.text == ""
    assert len(out.token_ids) == 9
    check_whole(pieces, out)


def test_faults_are_raised_before_the_first_piece() -> None:
    llm = llm_of()
    with pytest.raises(PromptError, match="0 tokens"):
        llm.stream("")
    with pytest.raises(SamplingError, match="n=2 samples cannot be streamed"):
        llm.stream(PROMPT, n=2)
    with pytest.raises(SamplingError, match=r"top_p=1\.5"):
        llm.stream(PROMPT, top_p=1.5)
    assert not llm.engine.has_work


def test_a_fault_in_the_middle_comes_after_what_was_said_before() -> None:
    def fifth(input_ids: torch.Tensor, scores: None) -> bool:
        if input_ids.shape[1] == len(PROMPT) + 5:
            raise LookupError("no fifth token")
        return False

    llm = llm_of(None, max_batch=1)
    stream = llm.stream(PROMPT, logits_processor=[Dictation(TEXT)], stopping_criteria=[fifth])
    assert [next(stream).text for _ in range(4)] == ["Z", "o", "", "ë"]
    with pytest.raises(UserCodeError, match=r"fifth raised LookupError\('no fifth token'\)"):
        next(stream)
    assert not llm.engine.has_work


# --- leaving ------------------------------------------------------------------------------------------------------


def leave_unread(llm: LLM) -> None:
    llm.stream(PROMPT, max_new_tokens=100)


def leave_after_a_piece(llm: LLM) -> None:
    next(llm.stream(PROMPT, max_new_tokens=100))


def close_unread(llm: LLM) -> None:
    llm.stream(PROMPT, max_new_tokens=100).close()  # type: ignore[attr-defined]


def break_out(llm: LLM) -> None:
    for piece in llm.stream(PROMPT, max_new_tokens=100):
        if piece.token_ids:
            break


@pytest.mark.parametrize("leave", [leave_unread, leave_after_a_piece, close_unread, break_out])
def test_a_stream_that_is_left_frees_its_slot(leave: Any) -> None:
    llm = llm_of(model_drafter(), max_batch=1)
    reference = llm.generate("Hello world", max_new_tokens=20).token_ids
    for _ in range(3):
        leave(llm)  # the last reference goes with it
        assert not llm.engine.has_work
    assert llm.generate("Hello world", max_new_tokens=20).token_ids == reference


def test_streams_and_calls_take_turns() -> None:
    llm = llm_of(model_drafter())
    prompts = ["Hello world", "x" * 30, PROMPT]
    reference = [llm.generate(prompt, max_new_tokens=24).token_ids for prompt in prompts]
    streams = [llm.stream(prompt, max_new_tokens=24) for prompt in prompts[:2]]
    collected: list[list[int]] = [[], []]
    for number in range(40):
        for stream, token_ids in zip(streams, collected, strict=True):
            token_ids += [i for piece in [next(stream, None)] if piece is not None for i in piece.token_ids]
        if number == 2:
            assert llm.generate(prompts[2], max_new_tokens=24).token_ids == reference[2]
    assert [tuple(token_ids) for token_ids in collected] == reference[:2]
    assert not llm.engine.has_work


def test_closing_the_llm_ends_its_streams() -> None:
    with llm_of() as llm:
        stream = llm.stream(PROMPT, max_new_tokens=50)
        next(stream)
    with pytest.raises(ConfigError, match="this LLM is closed"):
        next(stream)
    with pytest.raises(ConfigError, match="this LLM is closed"):
        llm.generate(PROMPT)
    llm.close()


# --- interruptions ------------------------------------------------------------------------------------------------


class InterruptedAt:
    """Ctrl-C in the middle of call number `number` of a module, before or after its work."""

    def __init__(self, module: torch.nn.Module, number: int, *, after: bool) -> None:
        self.number = number
        hook = self._hook
        self.handle = module.register_forward_hook(hook) if after else module.register_forward_pre_hook(hook)

    def _hook(self, *arguments: object) -> None:
        self.number -= 1
        if self.number == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("part", ["target", "draft"])
def test_an_interrupt_leaves_a_usable_llm_and_exact_streams(part: str, number: int, after: bool) -> None:
    models = pair()
    llm = llm_of(model_drafter(), max_batch=2, runtime="transformers")  # modules that can be interrupted
    reference = [llm.generate(prompt, max_new_tokens=24).token_ids for prompt in ("Hello world", PROMPT)]
    stream = llm.stream("Hello world", max_new_tokens=24)
    token_ids = list(next(stream).token_ids)
    interrupted = InterruptedAt(getattr(models, part), number, after=after)
    try:
        with pytest.raises(KeyboardInterrupt):
            llm.generate([PROMPT, "a second one"], max_new_tokens=24)
    finally:
        interrupted.handle.remove()
    assert llm.generate(PROMPT, max_new_tokens=24).token_ids == reference[1]
    token_ids += [token_id for piece in stream for token_id in piece.token_ids]
    assert tuple(token_ids) == reference[0]
    assert not llm.engine.has_work


def test_an_interrupt_in_a_processor() -> None:
    calls = []

    def interrupt(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        calls.append(input_ids)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return scores

    llm = llm_of(model_drafter(), max_batch=1)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([PROMPT, "waiting"], max_new_tokens=24, logits_processor=[interrupt])
    assert not llm.engine.has_work
    assert len(llm.generate(PROMPT, max_new_tokens=5, ignore_eos=True).token_ids) == 5
