"""Counting token ids, and `evodraft train vocabulary`."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from evodraft.drafters.token_map import read_token_map
from evodraft.errors import ConfigError, EvodraftError, TrainingError, WeightsError
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer
from evodraft.training import vocabulary
from evodraft.training.__main__ import build_app
from evodraft.training.vocabulary import (
    answers_of,
    balanced,
    count_file,
    count_ids,
    most_frequent,
    texts_of,
    token_share,
)

VOCAB_SIZE = 264
TOKENIZER = byte_tokenizer()
A, B, C = TOKENIZER("abc")["input_ids"]


def write(path: Path, records: list[object]) -> Path:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(lzma.compress(lines.encode()) if path.suffix == ".xz" else lines.encode())
    return path


def counted(counts: torch.Tensor) -> dict[int, int]:
    return {token_id: int(counts[token_id]) for token_id in counts.nonzero()[:, 0].tolist()}


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.jsonl.xz"])
@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_texts_are_tokenised_and_counted(
    tmp_path: Path, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_CHUNK", chunk)
    path = write(tmp_path / name, [{"text": "aab"}, {"prompt": "b", "response": "ca"}, {"text": ""}])
    told: list[int] = []
    groups = count_file(path, texts_of, TOKENIZER, VOCAB_SIZE, told=told.append)
    assert counted(groups[""]) == {A: 3, B: 2, C: 1}
    assert (len(told), told[-1], sorted(told)) == (3, path.stat().st_size, told)


def test_answers_are_counted_without_their_prompts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": [B], "response": [A, A]}, {"prompt": "c", "response": "cab"}])
    assert counted(count_file(path, answers_of, TOKENIZER, VOCAB_SIZE)[""]) == {A: 3, B: 1, C: 1}


def test_groups_are_counted_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "of": 1}, {"text": "b", "of": "x"}, {"text": "c", "of": 1}])
    groups = count_file(path, texts_of, TOKENIZER, VOCAB_SIZE, group_by="of")
    assert {group: counted(counts) for group, counts in groups.items()} == {"1": {A: 1, C: 1}, "x": {B: 1}}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"words": "a"}], "fields that are asked for .*prompt"),
        ([{"text": 5}], "check the file and the flags"),
        ([[1]], "check the file and the flags"),
        ([{"text": [VOCAB_SIZE]}], r"token ids 264 \.\. 264 are counted and the target has 0 \.\. 263"),
        ([{"text": [-1]}], r"token ids -1 \.\. -1 are counted"),
    ],
)
def test_records_that_cannot_be_counted(tmp_path: Path, records: list[object], message: str) -> None:
    path = write(tmp_path / "a.jsonl", records)
    with pytest.raises(TrainingError, match=message):
        count_file(path, texts_of, TOKENIZER, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", b"{"), ("a.jsonl", b"\xff"), ("a.jsonl.xz", b"no archive"), ("a.jsonl", None)]
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=r"a\.jsonl.*check the (file|path)"):
        count_file(tmp_path / name, texts_of, TOKENIZER, VOCAB_SIZE)


def test_rows_may_be_made_on_the_way() -> None:
    assert count_ids(([token_id] * token_id for token_id in range(4)), 4).tolist() == [0, 1, 2, 3]
    assert count_ids([], 3).tolist() == [0, 0, 0]


def test_the_most_frequent_come_first_and_ties_go_to_the_lowest_id() -> None:
    counts = torch.tensor([5, 0, 7, 5, 0, 7])
    assert most_frequent(counts, 6, []) == [2, 5, 0, 3, 1, 4]
    assert most_frequent(counts, 3, [4]) == [2, 5, 4]
    assert token_share(counts, [2, 5, 4]) == pytest.approx(14 / 24)
    assert token_share(torch.zeros(3), [0]) == 0.0
    for size in (0, 7):
        with pytest.raises(TrainingError, match=f"{size} ids cannot be taken of 6; take 1 to 6"):
            most_frequent(counts, size, [])
    with pytest.raises(ConfigError, match="size=1 does not hold the 2 ids"):
        most_frequent(counts, 1, [0, 1])


def test_every_group_weighs_the_same() -> None:
    groups = {"much": torch.tensor([90, 10, 0]), "little": torch.tensor([0, 1, 1]), "none": torch.zeros(3)}
    assert balanced(groups).tolist() == pytest.approx([0.3, 0.2, 1 / 6])


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def target(tmp_path: Path) -> Path:
    tiny_model("llama", vocab_size=VOCAB_SIZE).save_pretrained(tmp_path / "target")
    TOKENIZER.save_pretrained(tmp_path / "target")
    return tmp_path / "target"


def run(*words: object) -> str:
    result = CliRunner().invoke(build_app(), ["vocabulary", *map(str, words)])
    if isinstance(result.exception, EvodraftError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_map_in_every_format(tmp_path: Path, target: Path) -> None:
    texts = write(tmp_path / "texts.jsonl.xz", [{"text": "aaab"}])
    generated = write(tmp_path / "answers.jsonl", [{"response": [C, C, A, A]}])
    out = [tmp_path / f"map{ending}" for ending in (".pt", ".json", ".txt")]
    flags = [flag for path in out for flag in ("--out", path)]
    said = run("--target", target, "--texts", texts, "--generated", generated, "--size", 3, *flags)
    assert [read_token_map(path) for path in out] == [[A, C, 256]] * 3
    assert said.splitlines() == [
        "87.5% of 8 tokens are in the map",
        "3 of 264 ids; written: map.pt, map.json, map.txt",
    ]


def test_groups_are_balanced_and_told_apart(tmp_path: Path, target: Path) -> None:
    records = [{"text": "a" * 8 + "b" * 4, "domain": "x"}, {"text": "cc", "domain": "y"}]
    paths = [write(tmp_path / f"{number}.jsonl", [record]) for number, record in enumerate(records)]
    flags = ["--target", target, "--texts", paths[0], "--texts", paths[1], "--size", 3, "--out", tmp_path / "m.json"]
    run(*flags)
    assert read_token_map(tmp_path / "m.json") == [A, B, 256]
    said = run(*flags, "--group-by", "domain")
    assert read_token_map(tmp_path / "m.json") == [C, A, 256]
    assert said.splitlines()[:2] == ["x: 66.7% of 12 tokens are in the map", "y: 100.0% of 2 tokens are in the map"]


def test_mistakes_are_named(tmp_path: Path, target: Path) -> None:
    out = ("--out", tmp_path / "map.json")
    with pytest.raises(TrainingError, match="nothing to count; pass --texts or --generated"):
        run("--target", target, *out)
    with pytest.raises(TrainingError, match="there is no file"):
        run("--target", target, *out, "--texts", tmp_path / "none.jsonl")
    with pytest.raises(WeightsError, match="does not exist"):
        run("--target", tmp_path / "none", *out, "--texts", tmp_path / "none.jsonl")
    texts = write(tmp_path / "texts.jsonl", [{"text": "a"}])
    with pytest.raises(ConfigError, match=r"map.csv ends in none of"):
        run("--target", target, "--out", tmp_path / "map.csv", "--texts", texts, "--size", 5)


def test_the_demo_is_a_target(tmp_path: Path) -> None:
    pytest.importorskip("evodraft_demo")
    texts = write(tmp_path / "texts.jsonl", [{"text": "The heart pumps."}])
    run("--target", "demo", "--texts", texts, "--out", tmp_path / "map.json", "--size", 64)
    assert set(range(5)) < set(read_token_map(tmp_path / "map.json"))


def test_without_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Path:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.resources.files", missing)
    with pytest.raises(TrainingError, match="demo models are not installed"):
        run("--target", "demo", "--texts", tmp_path / "a.jsonl", "--out", tmp_path / "map.json")
