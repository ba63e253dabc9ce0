"""JSONL files, plain and compressed, whole and damaged."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from evodraft.bench.jsonl import read_records
from evodraft.errors import BenchError

TEXT = '{"a": 1}\n\n{"a": "ü"}\n'
PACKED = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKED)
def test_records_with_their_places(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACKED[suffix](TEXT.encode()))
    records = list(read_records(path))
    assert [record.fields for record in records] == [{"a": 1}, {"a": "ü"}]
    assert [record.place for record in records] == [f"file{suffix}, line 1", f"file{suffix}, line 3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"\n', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1 is not an object but list; every line must be one object"),
        ("a.jsonl", b'{"a": "\xff"}\n', "is not UTF-8 text after line 0"),
        ("a.jsonl.xz", b"plain text", "is damaged after line 0"),
        ("a.jsonl.xz", lzma.compress(TEXT.encode() * 99)[:-20], "is damaged after line"),
        ("a.jsonl.gz", gzip.compress(TEXT.encode() * 99)[:-9], "is damaged after line"),
        ("a.jsonl.gz", b"plain text", "cannot read .*a.jsonl.gz: Not a gzipped file"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchError, match=message):
        list(read_records(tmp_path / name))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read .*none.jsonl: No such file or directory; check the path"):
        list(read_records(tmp_path / "none.jsonl"))
