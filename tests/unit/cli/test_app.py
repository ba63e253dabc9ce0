"""How every command ends: help, mistakes, interruptions, pipes that close."""

from __future__ import annotations

import errno
import io
import os
import runpy
import subprocess
import sys
from importlib import metadata

import pytest

from evodraft.cli import main

COMMANDS = ("demo", "generate", "chat", "inspect", "train")


def _process(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", **options)


def test_help_lists_every_command(command) -> None:
    ended = command("--help")
    assert ended.code == 0
    assert all(f" {name} " in ended.out for name in COMMANDS)
    assert command("-h") == ended


def test_nothing_asked_is_help(command) -> None:
    ended = command()
    assert "Usage: " in ended.out + ended.err


def test_version(command) -> None:
    assert command("--version") == (0, f"evodraft {metadata.version('evodraft')}\n", "")


def test_help_needs_no_torch() -> None:
    asked = [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS if name != "train")]
    script = (
        "import sys\nfrom evodraft.cli import main\n"
        f"for arguments in {asked!r}:\n"
        "    sys.argv = ['evodraft', *arguments]\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code\n"
        "slow = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    process = _process("-c", script, stdout=subprocess.PIPE)
    assert (process.communicate()[1], process.returncode) == ("", 0)


def test_python_m_evodraft_is_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evodraft", "--version"])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module("evodraft", run_name="__main__")
    assert not exit_info.value.code
    assert capsys.readouterr().out == f"evodraft {metadata.version('evodraft')}\n"


def test_a_mistake_is_one_line_and_exit_code_2(command) -> None:
    ended = command("generate", "hi", "--drafter", "ngrm")
    assert ended.code == 2
    assert ended.one_line.startswith("UnknownOptionError: unknown drafter 'ngrm'; did you mean 'ngram'? Known: ")
    assert ended.out == ""


def test_markup_in_a_mistake_is_literal(command) -> None:
    assert "'[red]x[/red]'" in command("generate", "hi", "--drafter", "[red]x[/red]").one_line


@pytest.mark.parametrize("arguments", [["genrate"], ["generate", "--temprature", "1"], ["generate", "--n", "two"]])
def test_wrong_usage_is_exit_code_2(command, arguments: list[str]) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err


def test_our_own_bug_keeps_its_stack_trace(monkeypatch: pytest.MonkeyPatch, command) -> None:
    monkeypatch.setattr("evodraft.llm.LLM.from_pretrained", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("generate", "hi")


def test_ctrl_c_ends_quietly(monkeypatch: pytest.MonkeyPatch, command) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evodraft.llm.LLM.from_pretrained", interrupted)
    assert command("generate", "hi") == (130, "", "")


def test_a_reader_that_goes_away_ends_us_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = _process("-m", "evodraft", "--help", stdout=writing)
    os.close(writing)
    assert (process.communicate()[1], process.returncode) == ("", 1)


def test_a_reader_that_goes_away_while_text_streams(
    monkeypatch: pytest.MonkeyPatch, model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["evodraft", "generate", "hi", "--model", model_folder])
        patch.setattr(sys, "stdout", Closed())
        patch.setattr(sys, "stderr", sys.stderr)  # whatever the command puts in its place
        with pytest.raises(SystemExit) as exit_info:
            main()
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == ""


def test_what_the_encoding_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["evodraft", "--version"])
    with pytest.raises(SystemExit):
        main()
    stream.write("\u2192")
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"?")
