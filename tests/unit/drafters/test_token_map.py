"""Token maps: three formats, and files that nobody should trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evodraft.drafters import token_map
from evodraft.drafters.token_map import FORMATS, read_token_map, write_token_map
from evodraft.errors import ConfigError, WeightsError

IDS = [7, 3, 0, 250_000]


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_written_is_read_in_its_order(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"map{ending}"
    write_token_map(path, IDS)
    assert read_token_map(path) == IDS


def test_each_format_is_what_others_read(tmp_path: Path) -> None:
    for ending in FORMATS:
        write_token_map(tmp_path / f"map{ending}", tuple(IDS))
    stored = torch.load(tmp_path / "map.pt", weights_only=True)
    assert torch.tensor(stored, dtype=torch.int64).tolist() == IDS
    assert isinstance(stored, list)
    assert json.loads((tmp_path / "map.json").read_text()) == IDS
    assert (tmp_path / "map.txt").read_text() == "7\n3\n0\n250000\n"


@pytest.mark.parametrize(
    "stored",
    [IDS, tuple(IDS), torch.tensor(IDS), torch.tensor(IDS, dtype=torch.int32)],
    ids=type,
)
def test_torch_files_of_others(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "map.pt")
    assert read_token_map(tmp_path / "map.pt") == IDS


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/nowhere/attacked"),))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (torch.tensor([0.0, 1.0]), r"holds a tensor of float32 and shape \(2,\) and no list of token ids"),
        (torch.tensor([True, False]), "holds a tensor of bool"),
        (torch.tensor([1 + 1j]), "holds a tensor of complex64"),
        (torch.tensor([[0, 1]]), r"shape \(1, 2\)"),
        (torch.zeros(1, dtype=torch.int64).expand(1 << 40), r"shape \(1099511627776,\)"),
        (torch.zeros(3, dtype=torch.int64).to_sparse(), "holds a tensor of int64"),
        ({"a": 1}, "holds a dict and no list of token ids; 'evodraft train vocabulary' writes a token map"),
        ([1, True], "lists True, which is no token id"),
        ([1, None], "lists None, which is no token id; list whole numbers"),
        ([], "lists 0 token ids; list at least 1"),
        ([4, 9, 4], "lists token id 4 more than once; list each id once"),
        (Attack(), "cannot be read as a token map: .*; make or copy it again"),
    ],
    ids=str,
)
def test_torch_files_that_are_none(tmp_path: Path, stored: object, message: str) -> None:
    path = tmp_path / "map.pt"
    torch.save(stored, path)
    with pytest.raises(WeightsError, match=message):
        read_token_map(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("map.json", b'{"the": 5, "a": 6}', "holds a dict and no list"),
        ("map.json", b'["the"]', "lists 'the', which is no token id"),
        ("map.json", b"[1, 2.5]", "lists 2.5, which is no token id"),
        ("map.json", b"[1, 2", "cannot be read as a token map"),
        ("map.json", b"[" * 100_000, "cannot be read as a token map"),
        ("map.json", b"\xff\xfe", "cannot be read as a token map"),
        ("map.json", b"[1" + b"0" * 10_000 + b"]", "cannot be read as a token map"),
        ("map.txt", b"the\na\n", "cannot be read as a token map: invalid literal"),
        ("map.txt", b"", "lists 0 token ids"),
        ("map.txt", b"1\n2\n1\n", "lists token id 1 more than once"),
        ("map.pt", b"PK\x03\x04 no archive", "cannot be read as a token map"),
        ("map.pt", b"", "cannot be read as a token map"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as raised:
        read_token_map(path)
    assert str(path) in str(raised.value)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.txt"
    write_token_map(path, range(10))
    monkeypatch.setattr(token_map, "LARGEST_MAP", 9)
    with pytest.raises(WeightsError, match="lists 10 token ids; list at least 1 and at most 9"):
        read_token_map(path)
    monkeypatch.setattr(token_map, "LARGEST_FILE", 19)
    with pytest.raises(WeightsError, match="has 20 bytes, a token map at most 19"):
        read_token_map(path)


def test_names_say_the_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"map.csv is no token map: its name ends in none of .pt, .json, .txt"):
        read_token_map(tmp_path / "map.csv")
    with pytest.raises(ConfigError, match=r"map.csv ends in none of .pt, .json, .txt, which say the format"):
        write_token_map(tmp_path / "map.csv", IDS)
    for place in (tmp_path / "map.json", tmp_path / "folder.json"):
        (tmp_path / "folder.json").mkdir(exist_ok=True)
        with pytest.raises(WeightsError, match="there is no token map .*'evodraft train vocabulary'"):
            read_token_map(place)
