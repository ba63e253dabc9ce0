"""LLM over a table: what goes in, what comes out, and that it leaves nothing behind. Text needs only a tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from evodraft import LLM, Completion, Piece, SamplingParams
from evodraft.errors import ConfigError, EvodraftError, PromptError, SamplingError
from evodraft.testing import ScriptedController, TableLM, table_engine
from evodraft.testing.pairs import tiny_pair
from evodraft.testing.table_drafters import TABLE_DRAFTERS
from evodraft.testing.tokenizers import byte_tokenizer
from evodraft.verifiers.auto import AutoVerifier

SAMPLING: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0}


def table_llm(seed: int | None = 0, *, tokenizer: Any = None, eos: tuple[int, ...] = ()) -> LLM:
    table = TableLM.random(vocab_size=4, seed=3)
    drafter = TABLE_DRAFTERS["ngram"](table)
    engine = table_engine(table, drafter, ScriptedController([3]), AutoVerifier())
    return LLM(engine, tokenizer, eos, seed)


def text_llm(**options: Any) -> LLM:
    models = tiny_pair("llama")
    return LLM.from_pretrained((models.target, models.tokenizer), drafter="ngram", **options)


# --- one, many, samples -------------------------------------------------------------------------------------------


def test_a_text_gives_a_completion_and_a_list_gives_a_list() -> None:
    llm = text_llm()
    one = llm.generate("abc", max_new_tokens=4)
    [listed] = llm.generate(["abc"], max_new_tokens=4)
    [by_ids] = llm.generate(prompt_token_ids=[llm.tokenizer("abc")["input_ids"]], max_new_tokens=4)
    assert isinstance(one, Completion)
    assert (one.text, one.token_ids) == (listed.text, listed.token_ids) == (by_ids.text, by_ids.token_ids)
    assert one.prompt_token_ids == tuple(llm.tokenizer("abc")["input_ids"])


def test_completions_come_in_the_order_of_the_prompts() -> None:
    prompts = [[1], [2, 3], [3, 3, 3], [0]]
    outs = table_llm().generate(prompt_token_ids=prompts, **SAMPLING)
    assert [list(out.prompt_token_ids) for out in outs] == prompts
    assert len({out.request_id for out in outs}) == 4


def test_samples_are_grouped_by_prompt() -> None:
    outs = table_llm().generate(prompt_token_ids=[[1], [2]], n=3, **SAMPLING)
    assert [len(out.samples) for out in outs] == [3, 3]
    for out, prompt in zip(outs, [(1,), (2,)], strict=True):
        assert all(sample.prompt_token_ids == prompt and sample.samples == () for sample in out.samples)
        assert out.token_ids == out.samples[0].token_ids
    assert len({sample.token_ids for out in outs for sample in out.samples}) == 6
    [seeded] = table_llm().generate(prompt_token_ids=[[1]], n=3, seed=1, **SAMPLING)
    assert len({sample.token_ids for sample in seeded.samples}) == 3


def test_nothing_in_nothing_out() -> None:
    assert table_llm().generate(prompt_token_ids=[]) == []
    assert text_llm().generate([]) == []


def test_params_and_options_are_the_same_and_options_win() -> None:
    params = SamplingParams(max_new_tokens=5, temperature=1.0, seed=9)
    by_params = table_llm().generate(prompt_token_ids=[[1]], params=params)
    by_options = table_llm().generate(prompt_token_ids=[[1]], max_tokens=5, temperature=1.0, seed=9)
    assert by_params[0].token_ids == by_options[0].token_ids
    shorter = table_llm().generate(prompt_token_ids=[[1]], params=params, max_new_tokens=2)
    assert shorter[0].token_ids == by_params[0].token_ids[:2]


def test_plain_decoding_on_request() -> None:
    fast, plain = (
        table_llm().generate(prompt_token_ids=[[1, 2, 1, 2]], speculative=is_fast, seed=4, **SAMPLING)[0]
        for is_fast in (True, False)
    )
    assert fast.token_ids == plain.token_ids
    assert (fast.stats.num_rounds > 0, plain.stats.num_rounds) == (True, 0)


def test_seeds_are_chosen_or_drawn() -> None:
    llm = table_llm(seed=5)
    [chosen] = llm.generate(prompt_token_ids=[[1]], seed=8, **SAMPLING)
    [drawn] = llm.generate(prompt_token_ids=[[1]], **SAMPLING)
    [again] = table_llm(seed=5).generate(prompt_token_ids=[[1]], **SAMPLING)
    assert (chosen.seed, chosen.error) == (8, None)
    assert (drawn.seed, drawn.token_ids) == (again.seed, again.token_ids)
    assert drawn.seed != 8


# --- ends ---------------------------------------------------------------------------------------------------------


def test_eos_ends_unless_it_is_ignored() -> None:
    options = {"seed": 1, **SAMPLING}
    whole = table_llm().generate(prompt_token_ids=[[1]], **options)[0].token_ids
    eos = whole[3]
    cut = table_llm(eos=(eos,)).generate(prompt_token_ids=[[1]], **options)[0]
    assert cut.token_ids == whole[: whole.index(eos)]
    assert cut.finish_reason == "stop"
    ignoring = table_llm(eos=(eos,)).generate(prompt_token_ids=[[1]], ignore_eos=True, **options)[0]
    assert ignoring.token_ids == whole
    both = table_llm(eos=(eos,)).generate(prompt_token_ids=[[1]], ignore_eos=True, stop_token_ids=[eos], **options)[0]
    assert both.token_ids == cut.token_ids


# --- chat ---------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
MESSAGES = [{"role": "user", "content": "hello"}]


def test_chat_goes_through_the_template() -> None:
    llm = text_llm()
    llm.tokenizer.chat_template = TEMPLATE
    assert llm.chat_token_ids(MESSAGES) == llm.tokenizer("<user>hello<a>")["input_ids"]
    answer = llm.chat(MESSAGES, max_new_tokens=5)
    assert answer.text == llm.generate("<user>hello<a>", max_new_tokens=5).text
    assert llm.chat(MESSAGES, SamplingParams(max_new_tokens=5)).text == answer.text


def test_the_template_alone_decides_about_special_tokens() -> None:
    """A tokenizer that puts a token before every text would put it twice."""
    llm = text_llm()
    llm.tokenizer.chat_template = "<|end|>" + TEMPLATE
    llm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 256)]
    )
    assert llm.generate("a", max_new_tokens=1).prompt_token_ids[0] == 256
    assert llm.chat_token_ids(MESSAGES).count(256) == 1


def test_chat_raises_its_error() -> None:
    llm = text_llm()
    llm.tokenizer.chat_template = TEMPLATE
    with pytest.raises(PromptError, match="sequences are limited to 256"):
        llm.chat([{"role": "user", "content": "x" * 300}])


def test_chat_needs_a_template() -> None:
    with pytest.raises(ConfigError, match="no chat template; use generate with a plain prompt"):
        text_llm().chat(MESSAGES)
    with pytest.raises(ConfigError, match="chat needs a tokenizer with a chat template; build the LLM with"):
        table_llm().chat(MESSAGES)


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_is_the_completion_in_pieces() -> None:
    options = {"seed": 2, "speculative": True, **SAMPLING}
    pieces = list(table_llm().stream(prompt_token_ids=[1, 2], **options))
    [out] = table_llm().generate(prompt_token_ids=[[1, 2]], **options)
    assert tuple(token_id for piece in pieces for token_id in piece.token_ids) == out.token_ids
    assert all(isinstance(piece, Piece) and piece.token_ids for piece in pieces[:-1])
    assert pieces[-1].completion is not None
    assert pieces[-1].completion.token_ids == out.token_ids


def test_a_stream_that_is_not_read_leaves_the_line() -> None:
    llm = table_llm()
    stream = llm.stream(prompt_token_ids=[1], **SAMPLING)
    assert llm.engine.has_work
    del stream
    assert not llm.engine.has_work


# --- driving the engine oneself -----------------------------------------------------------------------------------


def test_submit_step_collect() -> None:
    llm = table_llm()
    jobs = llm.submit(prompt_token_ids=[[1], []], n=2, seed=3, **SAMPLING)
    assert [job.error is None for job in jobs] == [True, True, False, False]
    while not all(job.is_finished for job in jobs):
        llm.engine.step()
    good, bad = llm.collect(jobs)
    assert [out.token_ids for out in good.samples] == [
        out.token_ids for out in table_llm().generate(prompt_token_ids=[[1]], n=2, seed=3, **SAMPLING)[0].samples
    ]
    assert isinstance(bad.error, PromptError)
    assert llm.collect([]) == []


def test_cancel_keeps_what_was_said() -> None:
    llm = table_llm()
    jobs = llm.submit(prompt_token_ids=[[1], [2]], seed=3, **SAMPLING)
    llm.engine.step()
    llm.cancel(jobs[:1])
    llm.cancel(jobs[:1])
    assert jobs[0].is_finished
    assert not jobs[1].is_finished
    [out] = llm.collect(jobs[:1])
    assert out.finish_reason == "cancelled"
    assert 0 < len(out.token_ids) < 12
    llm.cancel(jobs)
    assert not llm.engine.has_work


def test_what_was_in_line_leaves_it_when_a_later_prompt_cannot_be_read() -> None:
    llm = table_llm()
    submit, calls = llm.engine.submit, []

    def interrupted(request: Any) -> Any:
        calls.append(request)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return submit(request)

    llm.engine.submit = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        llm.generate(prompt_token_ids=[[1], [2]], **SAMPLING)
    assert not llm.engine.has_work


def test_submit_one_raises_at_once() -> None:
    llm = table_llm()
    for arguments, message in [
        ({"prompt_token_ids": []}, "0 tokens"),
        ({"prompt_token_ids": [1], "n": 2}, "n=2 samples cannot be streamed as one"),
        ({"prompt_token_ids": [1], "speculativ": True}, "unknown sampling option 'speculativ'"),
        ({"prompt": "a"}, "a text prompt needs a tokenizer"),
        ({}, "give either a prompt or prompt_token_ids"),
    ]:
        with pytest.raises(EvodraftError, match=message):
            llm.submit_one(**arguments)
    assert not llm.engine.has_work


# --- the end ------------------------------------------------------------------------------------------------------


def test_a_closed_llm() -> None:
    with table_llm() as llm:
        jobs = llm.submit(prompt_token_ids=[[1]], **SAMPLING)
        assert llm.metrics is llm.engine.metrics
    llm.close()
    llm.cancel(jobs)
    with pytest.raises(ConfigError, match="this LLM is closed"):
        _ = llm.engine


def test_metrics_count_what_was_said() -> None:
    llm = table_llm()
    outs = llm.generate(prompt_token_ids=[[1], [2]], **SAMPLING)
    assert llm.metrics.num_tokens == sum(out.stats.num_tokens for out in outs) == 24


def test_from_pretrained_takes_every_spelling() -> None:
    models = tiny_pair("llama")
    target = (models.target, models.tokenizer)
    for options in (
        {"drafter": "ngram", "controller": "fixed:2"},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
        {"prompt_lookup_num_tokens": 2},
    ):
        out = LLM.from_pretrained(target, max_batch=1, seed=1, **options).generate("abcabc", max_new_tokens=6)
        assert out.stats.num_draft_tokens <= 2 * out.stats.num_rounds
    with pytest.raises(ConfigError, match="unknown option 'controler'; did you mean 'controller'"):
        LLM.from_pretrained(target, controler="fixed")


def test_parameters_must_be_parameters() -> None:
    with pytest.raises(SamplingError, match=r"int of builtins is not evodraft.SamplingParams"):
        table_llm().generate(prompt_token_ids=[[1]], params=7)  # type: ignore[arg-type]


def test_a_tokenizer_is_needed_for_text_only() -> None:
    with pytest.raises(ConfigError, match="a text prompt needs a tokenizer"):
        table_llm().generate("a")
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        table_llm().generate(prompt_token_ids=[[1]], stop="x")
    assert table_llm(tokenizer=byte_tokenizer()).generate(prompt_token_ids=[[1]], max_new_tokens=1)[0].text != ""
