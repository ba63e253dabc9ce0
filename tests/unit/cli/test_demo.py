"""`evodraft demo`: what is shown where, and that nothing is drawn while something is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from evodraft.engine import Engine

pytestmark = pytest.mark.usefixtures("bundle")
FEW = ("--max-new-tokens", "4", "--prompts-per-domain", "1")
SHOWN = ("law: law 0", "code: code 0", "speculative", "MAL: mean acceptance length", "identical: all 4 speculative")


def test_a_pipe_gets_the_final_panels_without_control_codes(command) -> None:
    ended = command("demo", *FEW)
    assert ended.code == 0
    assert all(text in ended.out for text in SHOWN)
    assert ended.out.count("law: law 0") == 1  # the first temperature only
    assert "\x1b" not in ended.out + ended.err
    assert ended.err == ""


def test_a_terminal_sees_the_streams_grow(command, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed: list[object] = []
    monkeypatch.setattr("evodraft.cli.demo.replay", lambda comparison, live: replayed.append(comparison.prompt.text))
    ended = command("demo", *FEW, typed=[])
    assert replayed == ["law 0", "code 0"]
    assert all(text in ended.out for text in SHOWN)
    assert "measuring: 4 of 4 comparisons" in ended.out
    assert "guessed by the draft and accepted" in ended.out


def test_replaying_can_be_left_out(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evodraft.cli.demo.replay", lambda comparison, live: pytest.fail("replayed"))
    ended = command("demo", *FEW, "--no-replay", typed=[])
    assert all(text in ended.out for text in SHOWN)


def test_nothing_is_drawn_while_an_answer_is_timed(command, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    step = Engine.step

    def watched(self: Engine) -> None:
        lengths.append(len(sys.stdout.getvalue()))
        step(self)
        lengths.append(len(sys.stdout.getvalue()))

    monkeypatch.setattr(Engine, "step", watched)
    monkeypatch.setattr("evodraft.display.time.sleep", lambda seconds: None)
    ended = command("demo", *FEW, "--temperature", "0", typed=[])
    assert lengths[0] < lengths[-1] < len(ended.out)
    # 2 warm-up runs and the first comparison, then the second one, each without a character in between
    assert len(set(lengths)) == 2


def test_figures_are_written(command, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "demo.json"
    ended = command("demo", *FEW, "--json", str(path), "--drafter", "ngram", "--seed", "3")
    assert f"figures written to {path}" in ended.out
    document = json.loads(path.read_text(encoding="utf-8"))
    assert {row["domain"] for row in document["rows"]} == {"code", "law", "all"}
    assert {row["temperature"] for row in document["rows"]} == {0.0, 0.7}
    assert document["settings"] == {
        **{"drafter": "ngram", "controller": "auto", "verifier": "auto", "dtype": "auto"},
        **{"runtime": "auto", "numerics": "auto", "seed": 3, "max_new_tokens": 4},
    }


def test_a_place_that_cannot_be_written_is_named(command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = command("demo", *FEW, "--temperature", "0", "--json", str(tmp_path / "file" / "demo.json"))
    assert ended.code == 2
    assert ended.one_line.startswith("ConfigError: cannot write ")
    assert "choose another file" in ended.one_line
