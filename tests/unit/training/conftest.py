"""A corpus, a tokenizer and models small enough to train within a test."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch

from evodraft.training.data import TokenArray, build_streams, sample_texts
from evodraft.training.llama import Shape, build_model
from evodraft.training.mix import Mix, Source
from evodraft.training.tokenizer import save_tokenizer, special_ids, train_tokenizer

COLOURS = ["red", "green", "blue", "black", "white", "brown", "grey"]
ANIMALS = ["cat", "dog", "fox", "hen", "owl", "pig", "cow", "bee"]
TINY = Shape(num_layers=2, num_heads=2, num_kv_heads=1, head_size=16, intermediate_size=48, max_positions=128)


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="session")
def mix() -> Mix:
    return Mix(
        "toy", (Source("farm", "text", "books", 3.0, 1.0, skip=("secret",)), Source("sums", "chat", "school", 1.0))
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    pairs = [(colour, animal) for colour in COLOURS for animal in ANIMALS]
    texts = [f"The {colour} {animal} saw the {animal} that was {colour}." for colour, animal in pairs]
    sums = [(a, b) for a in range(12) for b in range(12)]
    chats = [
        {"prompt": f"What is {a} + {b}?", "response": f"{a} + {b} = {a + b}", "source": "school:1"} for a, b in sums
    ]
    farm = [{"text": text, "source": "books:1"} for text in texts]
    farm.append({"text": "a secret animal", "source": "books:2"})
    farm.append({"text": "another library", "source": "elsewhere"})
    write_lines(folder / "farm.train.jsonl.xz", farm)
    write_lines(folder / "farm.valid.jsonl.xz", farm[:9])
    write_lines(folder / "sums.chat.jsonl.xz", chats)
    write_lines(folder / "sums.chat.valid.jsonl.xz", [])
    return folder


@pytest.fixture(scope="session")
def tokenizer(corpus, mix):
    return train_tokenizer(sample_texts(corpus, mix, 10_000), vocabulary_size=300)


@pytest.fixture(scope="session")
def ids(tokenizer):
    return special_ids(tokenizer)


@pytest.fixture(scope="session")
def streams(corpus, mix, tokenizer, tmp_path_factory) -> dict[str, TokenArray]:
    return build_streams(corpus, mix, tokenizer, tmp_path_factory.mktemp("streams"))


@pytest.fixture(scope="session")
def shape() -> Shape:
    return TINY


@pytest.fixture
def model(ids):
    return build_model(TINY, 300, ids, seed=1)


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)
