"""TextBuffer against the naive way: decode everything again after every token, and cut at the first stop string."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evodraft.errors import ConfigError, PromptError
from evodraft.testing.tokenizers import EOS, byte_tokenizer
from evodraft.text import TextBuffer, checked_ids, encoded, encoded_chat, kind_of

WORDS = ("Z", "oë", " STOP", "STO", "P", "日本語", " \U0001f600", "👩‍🚀", "\ufffd", "aa", "\n\n", "end")
INCOMPLETE = "\ufffd"


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and tokens of several bytes that begin, end or stop within characters; the last id is special."""
    joined = [b"STO", b"P!", b" \xf0\x9f", b"\x98\x80", b"a\xe6\x97", b"\xa5\xe6", b"\xc3\xab!", b"\n\n", b"D\xf0"]
    tokens = ["".join(map(letter_of, part)) for part in [*(bytes([byte]) for byte in range(256)), *joined]]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=EOS)


def letter_of(byte: int) -> str:
    """The letter that stands for a byte in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [other for other in range(256) if other not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


class Ending(NamedTuple):
    """Where a stop string ends a text: after `num_tokens` tokens, with `text`."""

    num_tokens: int | None
    text: str


def naive(token_ids: list[int], stop: tuple[str, ...], prompt: list[int]) -> Ending:
    """A stop string counts when it stands in the text without a half character that may still change."""
    skipped = len(decoded(prompt))
    for num_tokens in range(1, len(token_ids) + 1):
        settled = decoded(prompt + token_ids[:num_tokens]).rstrip(INCOMPLETE)[skipped:]
        starts = [settled.find(string) for string in stop if string in settled]
        if starts:
            return Ending(num_tokens, settled[: min(starts)])
    return Ending(None, decoded(prompt + token_ids)[skipped:])


def decoded(token_ids: list[int]) -> str:
    return str(tokenizer().decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@st.composite
def outputs(draw: st.DrawFn) -> list[int]:
    pieces = st.one_of(
        st.integers(0, len(tokenizer()) - 1).map(lambda token_id: [token_id]),
        st.sampled_from(WORDS).map(lambda word: list(tokenizer()(word)["input_ids"])),
    )
    return [token_id for piece in draw(st.lists(pieces, max_size=12)) for token_id in piece]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], tuple[str, ...]]:
    """Tokens, and stop strings that often occur in their text."""
    token_ids = draw(outputs())
    text = decoded(token_ids)
    parts = st.tuples(st.integers(0, len(text)), st.integers(1, 5)).map(lambda at: text[at[0] : at[0] + at[1]])
    strings = st.one_of(parts, st.sampled_from(WORDS), st.text(max_size=3)).filter(bool)
    stop = draw(st.lists(strings.filter(lambda string: INCOMPLETE not in string), max_size=3))
    return token_ids, tuple(stop)


PROMPTS = st.sampled_from(["", "a", "Tell me: ", "日本 \U0001f600", "x" * 20]).map(
    lambda text: list(tokenizer()(text)["input_ids"])
)


@given(cases(), PROMPTS, st.sets(st.integers(1, 60)))
def test_streamed_text_is_the_naive_text(
    case: tuple[list[int], tuple[str, ...]], prompt: list[int], reads: set[int]
) -> None:
    token_ids, stop = case
    expected = naive(token_ids, stop, prompt)
    buffer, shown, ended_at = TextBuffer(tokenizer(), prompt, stop), "", None
    for num_tokens in range(1, len(token_ids) + 1):
        is_ended = buffer(prompt + token_ids[:num_tokens])
        if num_tokens in reads:
            shown += buffer.take()
            assert expected.text.startswith(shown), "shown too early"
        if is_ended:
            ended_at = num_tokens
            break
    assert ended_at == expected.num_tokens
    shown += buffer.finish()
    assert shown == buffer.text == expected.text
    assert buffer.take() == buffer.finish() == ""


@given(outputs(), PROMPTS)
def test_without_stop_strings_all_tokens_may_come_at_once(token_ids: list[int], prompt: list[int]) -> None:
    buffer = TextBuffer(tokenizer(), prompt)
    assert buffer(prompt + token_ids) is False
    buffer.flush()
    assert buffer.text == decoded(prompt + token_ids)[len(decoded(prompt)) :]
    assert buffer.finish() == buffer.text


@given(cases(), st.integers(0, 8))
@example(([*map(ord, "abab")], ("ab",)), 1)
def test_an_ignored_stop_string_stays_in_the_text(case: tuple[list[int], tuple[str, ...]], num_least: int) -> None:
    """As with min_new_tokens: only what is completed from then on counts."""
    token_ids, stop = case
    buffer, shown = TextBuffer(tokenizer(), [], stop), ""
    for num_tokens in range(1, len(token_ids) + 1):
        is_ended = buffer(token_ids[:num_tokens])
        shown += buffer.take()
        if is_ended and num_tokens > num_least:
            break
    else:
        num_tokens = len(token_ids)
    shown += buffer.finish()
    assert shown == buffer.text
    assert decoded(token_ids[:num_tokens]).startswith(shown)


# --- examples -----------------------------------------------------------------------------------------------------


def feed(text: str, stop: tuple[str, ...] = (), prompt: str = "") -> tuple[list[str], TextBuffer, int]:
    """(what is taken after every token, the buffer, tokens used)."""
    one_byte, taken = byte_tokenizer(), []
    start, token_ids = (list(one_byte(t)["input_ids"]) if t else [] for t in (prompt, text))
    buffer = TextBuffer(one_byte, start, stop)
    for num_tokens in range(1, len(token_ids) + 1):
        is_ended = buffer(start + token_ids[:num_tokens])
        taken.append(buffer.take())
        if is_ended:
            break
    return taken, buffer, len(taken)


def test_a_character_is_shown_when_it_is_complete() -> None:
    assert feed("é\U0001f600!")[0] == ["", "é", "", "", "", "\U0001f600", "!"]


def test_a_stop_string_may_span_tokens_and_its_beginning_is_held_back() -> None:
    taken, buffer, num_tokens = feed("a STO b STOP c", ("STOP",))
    assert taken == ["a", " ", "", "", "", "STO ", "b", " ", "", "", "", ""]
    assert (buffer.text, num_tokens) == ("a STO b ", 12)
    assert buffer.finish() == ""


def test_the_beginning_of_a_stop_string_is_shown_when_nothing_follows() -> None:
    taken, buffer, _ = feed("abST", ("STOP",))
    assert "".join(taken) == "ab"
    assert buffer.finish() == "ST"
    assert (buffer.take(), buffer.finish(), buffer.take()) == ("", "", "")


def test_a_stop_string_across_characters_of_several_bytes() -> None:
    _, buffer, num_tokens = feed("日本語\U0001f600 x", ("語\U0001f600",))
    assert (buffer.text, num_tokens) == ("日本", 13)


def test_the_earliest_of_several_stop_strings_cuts() -> None:
    _, buffer, num_tokens = feed("xaab", ("ab", "aab", "b"))
    assert (buffer.text, num_tokens) == ("x", 4)


def test_a_token_that_ends_within_a_character_completes_a_stop_string_at_once() -> None:
    token_id = len(tokenizer()) - 2
    assert decoded([token_id]) == "D" + INCOMPLETE
    buffer = TextBuffer(tokenizer(), [], ("D",))
    assert buffer([token_id]) is True
    assert buffer.text == ""


def test_the_prompt_is_no_part_of_the_output() -> None:
    _, buffer, num_tokens = feed("OP STOP", ("STOP",), prompt="a prompt that ends with ST")
    assert (buffer.text, num_tokens) == ("OP ", 7)


def test_the_prompt_decides_whether_the_output_begins_with_a_space() -> None:
    """Some decoders drop the space before the first token of a text; the output is not the first."""
    made = Tokenizer(models.WordLevel({"▁one": 0, "▁two": 1}, unk_token="▁one"))
    made.decoder = decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=made)
    assert words.decode([1]) == "two"
    buffer = TextBuffer(words, [0] * 20)
    buffer([0] * 20 + [1, 0])
    assert buffer.finish() == " two one"


def test_an_ignored_stop_string_is_reported_once() -> None:
    buffer, text = TextBuffer(tokenizer(), [], ("ab",)), b"ab x abc"
    reports = [buffer(list(text[:num_bytes])) for num_bytes in range(1, len(text) + 1)]
    assert reports == [False, True, False, False, False, False, True, False]
    assert buffer.finish() == "ab x abc"


def test_special_tokens_are_skipped() -> None:
    one_byte = byte_tokenizer()
    token_ids = [*one_byte("\U0001f600")["input_ids"]]
    token_ids.insert(2, one_byte.eos_token_id)
    buffer = TextBuffer(one_byte, [])
    buffer(token_ids)
    assert buffer.finish() == "\U0001f600"


def test_half_a_character_is_not_lost() -> None:
    one_byte = byte_tokenizer()
    buffer = TextBuffer(one_byte, [])
    buffer(one_byte("a\U0001f600")["input_ids"][:3])
    assert buffer.take() == "a"
    assert buffer.finish() == INCOMPLETE
    assert buffer.text == "a" + INCOMPLETE


# --- prompts ------------------------------------------------------------------------------------------------------


def test_text_prompts() -> None:
    assert encoded(byte_tokenizer(), "ab") == byte_tokenizer()("ab")["input_ids"]
    assert encoded(byte_tokenizer(), "") == [], "also where a tokenizer would add a token of its own"
    with pytest.raises(PromptError, match=r"the prompt \(int\) is not a string"):
        encoded(byte_tokenizer(), 3)
    with pytest.raises(PromptError, match="half of a surrogate pair at character 1"):
        encoded(byte_tokenizer(), "a\ud800")


@pytest.mark.parametrize("ids", [(1, 2), np.array([1, 2]), torch.tensor([1, 2]), iter([1, 2]), [True, np.int8(2)]])
def test_lists_of_whole_numbers(ids: object) -> None:
    assert checked_ids(ids) == [1, 2]


@pytest.mark.parametrize("ids", [3, None, "12", [1.0], [None], [[1, 2]], torch.tensor([[1, 2]]), torch.tensor([0.5])])
def test_what_is_no_list_of_whole_numbers(ids: object) -> None:
    with pytest.raises(PromptError, match="is not a list of token ids; write"):
        checked_ids(ids)


@pytest.mark.parametrize("stop", [(), ("STOP",)])
@pytest.mark.parametrize("num_prompt", range(1, 9))
def test_a_character_that_the_prompt_begins_is_completed(num_prompt: int, stop: tuple[str, ...]) -> None:
    ids = byte_tokenizer()("I 🙂 on")["input_ids"]
    buffer = TextBuffer(byte_tokenizer(), ids[:num_prompt], stop)
    for length in range(num_prompt + 1, len(ids) + 1):
        buffer(ids[:length])
    buffer.flush()
    whole_before = byte_tokenizer().decode(ids[:num_prompt]).rstrip(INCOMPLETE)
    assert whole_before + buffer.text == "I 🙂 on"


def test_half_a_character_of_the_prompt_is_not_output() -> None:
    ids = byte_tokenizer()("I 🙂")["input_ids"]
    buffer = TextBuffer(byte_tokenizer(), ids[:-1])
    assert buffer.finish() == ""


@pytest.mark.parametrize("messages", ["hi", [3], None])
def test_messages_that_are_none(messages: object) -> None:
    chat = byte_tokenizer()
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(PromptError, match="the chat template cannot read these messages"):
        encoded_chat(chat, messages)


def test_what_a_template_says_itself_is_shown_and_what_it_quotes_is_not() -> None:
    chat, messages = byte_tokenizer(), [{"role": "wizard", "content": "abracadabra"}]
    for template, shown in {
        "{{ raise_exception('roles must alternate') }}": "roles must alternate",
        "{{ raise_exception('unknown role ' + messages[0]['role']) }}": "TemplateError",
        "{{ raise_exception('') }}": "TemplateError",
        "{{ messages[0]['content'] + 1 }}": "TypeError",
    }.items():
        chat.chat_template = template
        with pytest.raises(PromptError, match=rf"cannot read these messages \({shown}\); pass a list"):
            encoded_chat(chat, messages)


def test_messages_must_be_encodable() -> None:
    chat = byte_tokenizer()
    chat.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(PromptError, match="half of a surrogate pair at character 1"):
        encoded_chat(chat, [{"role": "user", "content": "a\ud800"}])


@pytest.mark.parametrize(
    ("given", "kind"), [(3, "int"), ("a", "str"), ([], "list of nothing"), ((1, "a", 2), "tuple of int and str")]
)
def test_a_prompt_is_described_by_its_types(given: object, kind: str) -> None:
    assert kind_of(given) == kind


def test_messages_need_a_template() -> None:
    with pytest.raises(ConfigError, match="no chat template; use generate"):
        encoded_chat(byte_tokenizer(), [{"role": "user", "content": "x"}])
