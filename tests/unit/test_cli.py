"""The command line: what a user types and sees, mistakes included."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from evodraft import cli


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evodraft", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def test_demo_answers_and_writes_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "folder" / "demo.json"
    code = _run(monkeypatch, "demo", "--max-new-tokens", "4", "--prompts-per-domain", "1", "--json", str(path))
    shown = capsys.readouterr().out
    assert code == 0
    assert "plain and speculative decoding in the same runtime" in shown
    assert "figures written to" in shown
    document = json.loads(path.read_text(encoding="utf-8"))
    assert {row["domain"] for row in document["rows"]} == {"code", "law", "medicine", "math", "general", "all"}
    assert {row["temperature"] for row in document["rows"]} == {0.0, 0.7}
    assert document["settings"]["max_new_tokens"] == 4


def test_a_mistake_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "demo", "--drafter", "ngrm") == 2
    shown = capsys.readouterr()
    assert "UnknownOptionError: unknown drafter 'ngrm'; did you mean 'ngram'?" in " ".join(shown.err.split())
    assert "Traceback" not in shown.out + shown.err


def test_python_m_evodraft_is_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evodraft", "--help"])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module("evodraft", run_name="__main__")
    assert exit_info.value.code == 0
    assert "demo" in capsys.readouterr().out
