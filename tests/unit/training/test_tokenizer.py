"""The tokenizer: exact size, lossless, special tokens, chat template, offline loading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from evodraft.errors import TrainingError
from evodraft.training.data import Turn, format_chat
from evodraft.training.tokenizer import SPECIAL_TOKENS, load_tokenizer, save_tokenizer, special_ids, train_tokenizer

HARD_TEXTS = [
    " leading, trailing  and   double spaces ",
    "don 't join , these . marks !",
    "tabs\tand\r\nline ends\n\n",
    "naïve – “quotes” 東京 🙂 \u0000 \ufeff",
    "def f(x):\n    return x[1:-1]  # ok",
]


def test_the_vocabulary_has_exactly_the_size_asked_for(tokenizer):
    assert len(tokenizer) == 300
    assert sorted(tokenizer.get_vocab().values()) == list(range(300))


def test_too_little_text_is_an_error_that_names_both_sizes():
    with pytest.raises(TrainingError, match=r"yields \d+ vocabulary entries, 5000 were asked for"):
        train_tokenizer(["hardly any text"], vocabulary_size=5000)


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_decoding_returns_every_character(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@given(st.text(max_size=60))
def test_decoding_any_text_is_lossless(tokenizer, text):
    if not any(token in text for token in SPECIAL_TOKENS):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_are_separate_tokens(tokenizer):
    assert len(tokenizer.encode("12 + 345", add_special_tokens=False)) >= 7
    assert all(len(token.strip("Ġ")) == 1 for token in tokenizer.get_vocab() if any(c.isdigit() for c in token))


def test_special_ids_and_roles_of_the_separator(tokenizer, ids):
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == ids.separator
    assert tokenizer.pad_token_id == ids.pad
    assert tokenizer.encode("<|end|>", add_special_tokens=False) == [ids.end]
    assert len({ids.separator, ids.pad, ids.user, ids.assistant, ids.end}) == 5


def test_nothing_is_added_to_plain_text(tokenizer):
    assert tokenizer("The cat")["input_ids"] == tokenizer.encode("The cat", add_special_tokens=False)


def test_a_saved_folder_loads_offline_and_chats_as_in_training(tokenizer, tokenizer_folder, ids):
    loaded = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    messages = [{"role": "user", "content": "What is 1 + 1?"}]
    prompt = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    turns = [Turn("user", "What is 1 + 1?"), Turn("assistant", "1 + 1 = 2")]
    assert prompt + "1 + 1 = 2<|end|>" == "<|endoftext|>" + format_chat(turns)
    assert loaded.encode(prompt, add_special_tokens=False)[0] == ids.separator
    assert loaded.decode(loaded.encode(HARD_TEXTS[1], add_special_tokens=False)) == HARD_TEXTS[1]


def test_a_tokenizer_saved_again_is_the_same_folder(tokenizer_folder, tmp_path):
    save_tokenizer(load_tokenizer(tokenizer_folder), tmp_path)
    for path in tokenizer_folder.iterdir():
        assert (tmp_path / path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


def test_a_folder_without_tokenizer_says_how_to_make_one(tmp_path):
    with pytest.raises(TrainingError, match=r"python -m evodraft\.training tokenizer"):
        load_tokenizer(tmp_path)


def test_a_foreign_tokenizer_is_refused(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    foreign = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(TrainingError, match="lacks the special tokens"):
        special_ids(foreign)
