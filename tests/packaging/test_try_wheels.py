"""What is run in the clean environment. `make build` shows that it runs: that takes minutes and a package index."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import try_wheels
from try_wheels import commands, torch_requirement

WHEELS = [Path("dist") / "evodraft-1-py3-none-any.whl", Path("dist") / "evodraft_demo-1-py3-none-any.whl"]


def test_torch_comes_first_and_from_its_own_index() -> None:
    torch, wheels, *_ = commands(Path("env"), WHEELS, "https://example.org/cpu")
    pinned = torch_requirement(try_wheels.CONSTRAINTS.read_text(encoding="utf-8"))
    assert torch[-3:] == ["--index-url", "https://example.org/cpu", pinned]
    assert "--index-url" not in wheels
    assert wheels[-4:] == ["--constraint", str(try_wheels.CONSTRAINTS), *map(str, WHEELS)]
    assert "--index-url" not in commands(Path("env"), WHEELS, None)[0]


def test_everything_runs_in_that_environment() -> None:
    for command in commands(Path("env"), WHEELS, None):
        assert Path(command[0]).parts[:2] == ("env", "Scripts" if os.name == "nt" else "bin")


def test_no_wheels_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_wheels.main([str(tmp_path)]) == 1
    assert "no wheel in" in capsys.readouterr().err


def test_the_first_command_that_fails_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "reached"
    script = (
        "import os, pathlib; assert 'PYTHONPATH' not in os.environ; "
        f"pathlib.Path({str(marker)!r}).write_text(os.getcwd(), encoding='utf-8')"
    )
    steps = [[sys.executable, "-c", script], [sys.executable, "-c", "raise SystemExit(3)"], ["never"]]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(try_wheels.venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(try_wheels, "commands", lambda *_: steps)
    (tmp_path / WHEELS[0].name).write_bytes(b"")
    assert try_wheels.main([str(tmp_path)]) == 1
    assert "exit code 3 from" in capsys.readouterr().err
    assert not Path(marker.read_text(encoding="utf-8")).exists()  # the temporary folder it ran in


def test_all_commands_well_is_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(try_wheels.venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(try_wheels, "commands", lambda *_: [[sys.executable, "-c", ""]])
    (tmp_path / WHEELS[0].name).write_bytes(b"")
    assert try_wheels.main([str(tmp_path)]) == 0
