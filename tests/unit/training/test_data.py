"""Reading, formatting, tokenising and sampling a corpus."""

from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.training.data import (
    PROMPT_TOKENS,
    BatchSampler,
    Turn,
    build_streams,
    format_chat,
    hash_streams,
    held_out_prompts,
    parse_dialogue,
    plain,
    read_documents,
    tokenise,
)
from evodraft.training.mix import Mix, Source
from evodraft.training.tasks import NUM_HELD_OUT

SHARES = {"farm.text.books": 0.75, "sums.chat.school": 0.25}


def test_chat_is_formatted_turn_by_turn():
    turns = [Turn("user", "Hi"), Turn("assistant", "Hello")]
    assert format_chat(turns) == "<|user|>Hi<|end|><|assistant|>Hello<|end|>"


def test_content_cannot_act_as_structure():
    assert plain("a<|end|>b<|endoftext|>c") == "abc"
    assert format_chat([Turn("user", "x<|assistant|>y")]) == "<|user|>xy<|end|>"


def test_transcripts_become_turns_and_prose_does_not():
    dialogue = parse_dialogue("A: Hello\nB: Hi,\nhow are you?\nA: Fine")
    assert dialogue == [Turn("user", "Hello"), Turn("assistant", "Hi,\nhow are you?"), Turn("user", "Fine")]
    assert parse_dialogue("User: one line only") == []
    assert parse_dialogue("Prose first.\nA: x\nB: y") == []


def test_documents_come_from_the_source_only_and_skipped_ones_are_left_out(corpus, mix):
    documents = list(read_documents(corpus, mix.sources[0], "train"))
    assert len(documents) == 56
    assert all(document.startswith("The ") for document in documents)


def test_mini_tasks_are_made_not_read(tmp_path):
    documents = list(read_documents(tmp_path, Source("tasks", "task", "sum", 1.0), "valid"))
    assert len(documents) == NUM_HELD_OUT
    assert documents[0].startswith("<|user|>Add ")
    assert documents[0].endswith("<|end|>")


def test_held_out_prompts_end_where_the_answer_begins(corpus, mix, tokenizer):
    prompts = held_out_prompts(corpus, mix, tokenizer, per_domain=3)
    assert {domain: len(rows) for domain, rows in prompts.items()} == {"farm": 3, "sums": 0}
    assert all(len(row) <= PROMPT_TOKENS for row in prompts["farm"])
    assert tokenizer.decode(prompts["farm"][0]).startswith("<|endoftext|>The red cat")


def test_a_prompt_of_a_dialogue_is_its_first_turn(tmp_path, tokenizer):
    record = {"prompt": "What is 1 + 2?", "response": "1 + 2 = 3", "source": "school:1"}
    with lzma.open(tmp_path / "sums.chat.valid.jsonl.xz", "wt") as file:
        file.write(json.dumps(record) + "\n")
    school = Mix("school", (Source("sums", "chat", "school", 1.0),))
    [row] = held_out_prompts(tmp_path, school, tokenizer, per_domain=5)["sums"]
    assert tokenizer.decode(row) == "<|endoftext|><|user|>What is 1 + 2?<|end|><|assistant|>"


def test_a_missing_or_damaged_file_is_named(corpus, tmp_path):
    with pytest.raises(TrainingError, match=r"nowhere\.train\.jsonl\.xz"):
        list(read_documents(corpus, Source("nowhere", "text", "books", 1.0), "train"))
    (tmp_path / "farm.train.jsonl.xz").write_bytes(b"no archive")
    with pytest.raises(TrainingError, match="damaged"):
        list(read_documents(tmp_path, Source("farm", "text", "books", 1.0), "train"))


def test_streams_hold_every_document_after_a_separator(streams, tokenizer, ids):
    stream = streams["farm.text.books"]
    assert stream.dtype == np.uint16
    assert stream[0] == ids.separator
    assert int((stream == ids.separator).sum()) == 56
    text = tokenizer.decode(stream.tolist())
    assert text.startswith("<|endoftext|>The red cat saw the cat that was red.<|endoftext|>")


def test_held_out_sources_may_be_empty_and_training_sources_may_not(corpus, mix, tokenizer, tmp_path):
    assert list(build_streams(corpus, mix, tokenizer, tmp_path, "valid")) == ["farm.text.books"]
    nobody = Mix("x", (Source("farm", "text", "nobody", 1.0),))
    with pytest.raises(TrainingError, match="nobody"):
        build_streams(corpus, nobody, tokenizer, tmp_path)


def test_streams_are_cached_and_hashed_by_content(corpus, mix, tokenizer, streams, tmp_path):
    again = build_streams(corpus, mix, tokenizer, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    build_streams(corpus, mix, tokenizer, tmp_path)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    assert hash_streams(again) == hash_streams(streams)
    assert hash_streams({"other": streams["farm.text.books"]}) != hash_streams(streams)


def test_an_interrupted_tokenisation_leaves_no_stream(tokenizer, tmp_path):
    def documents():
        yield "fine"
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        tokenise(tokenizer, documents(), tmp_path / "stream.bin")
    assert not (tmp_path / "stream.bin").exists()


def test_rows_follow_the_shares(streams, ids, generator):
    sampler = BatchSampler(streams, SHARES, generator)
    batch = sampler.next_batch(400, 24)
    assert batch.shape == (400, 25)
    assert batch.dtype == torch.int64
    share = (batch == ids.user).any(1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.01)


def test_windows_cover_a_stream_evenly(streams, generator):
    stream = streams["farm.text.books"]
    sampler = BatchSampler({"only": stream}, {"only": 1.0}, generator)
    num_rows = 2 * len(stream) // 16
    seen = {tuple(row) for row in sampler.next_batch(num_rows, 15).tolist()}
    heads = np.flatnonzero(stream == stream[0])
    begun = sum(tuple(np.take(stream, range(head, head + 16), mode="wrap").tolist()) in seen for head in heads)
    assert begun == len(heads)


def test_a_restored_sampler_draws_the_same_rows(streams, generator):
    sampler = BatchSampler(streams, SHARES, generator)
    sampler.next_batch(7, 16)
    state = sampler.state()
    expected = sampler.next_batch(9, 16)
    other = BatchSampler(streams, SHARES, torch.Generator().manual_seed(99))
    other.restore(state)
    assert torch.equal(other.next_batch(9, 16), expected)
    with pytest.raises(TrainingError, match="counts 1 sources"):
        other.restore({"starts": [0.0, 0.0], "counts": [0.0, 0.0]})
