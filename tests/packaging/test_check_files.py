"""What may be committed: one case for each thing that must not."""

from __future__ import annotations

from pathlib import Path

import pytest

import check_files

# Put together here, so that this file may be committed.
HOME = "/".join(["", "home", "ada", "models"])
MAC = "/".join(["", "Users", "ada", "models"])
ROOT = "/".join(["", "root", "models"])
WINDOWS = "\\".join(["C:", "Users", "ada"])


def complaints(folder: Path, content: bytes, name: str = "page.md") -> list[str]:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return check_files.check(folder, name)


@pytest.mark.parametrize("content", [b"", b"text\n", b"one\n\ntwo\n", b"\x89PNG\xff \n", "größer\n".encode()])
def test_clean_files_pass(tmp_path: Path, content: bytes) -> None:
    assert complaints(tmp_path, content) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"text", "page.md does not end with one newline"),
        (b"text\n\n", "page.md does not end with one newline"),
        (b"one\r\ntwo\n", "page.md:1 ends with CR LF; write LF"),
        (b"one\ntwo \n", "page.md:2 has white space at its end"),
        (f"see {HOME}\n".encode(), "page.md:1 names a folder of one machine; make it relative"),
        (f"see {MAC}\n".encode(), "page.md:1 names a folder of one machine; make it relative"),
        (f"see {ROOT}\n".encode(), "page.md:1 names a folder of one machine; make it relative"),
        (f"see {WINDOWS}\\x\n".encode(), "page.md:1 names a folder of one machine; make it relative"),
        (bytes(500_001) + b"\n", "page.md has 500,002 bytes, the limit is 500,000; git keeps it for ever"),
    ],
)
def test_others_are_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    assert complaints(tmp_path, content) == [complaint]


def test_the_place_of_the_checkout_is_refused(tmp_path: Path) -> None:
    assert complaints(tmp_path, f"in {tmp_path}/src\n".encode())


def test_relative_paths_and_addresses_pass(tmp_path: Path) -> None:
    assert complaints(tmp_path, b"docs/home/index.md https://example.org/home/page.html ~/models\n") == []


def test_the_bundle_may_be_large_and_end_as_it_likes(tmp_path: Path) -> None:
    assert complaints(tmp_path, b"x" * 600_000, "demo/src/evodraft_demo/draft/tokenizer.json") == []


def test_the_script_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_files, "PROJECT", tmp_path)
    (tmp_path / "good.md").write_bytes(b"good\n")
    (tmp_path / "bad.md").write_bytes(b"bad")
    assert check_files.main(["good.md"]) == 0
    assert check_files.main(["good.md", "bad.md"]) == 1
    assert capsys.readouterr().err == "bad.md does not end with one newline\n"
